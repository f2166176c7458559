"""Reads what wandb has written offline: a log of protobuf records in blocks, as in LevelDB."""
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

_BLOCK, _HEADER = 32768, 7


def segments(run: Path) -> List[Path]:
    """The files of a run directory, oldest first; a resumed run has another one."""
    return sorted((run / 'wandb').glob('offline-run-*/*.wandb'), key=lambda path: path.stat().st_mtime_ns)


def records(path: Path) -> Iterator[Any]:
    """The records of a file."""
    from wandb.proto import wandb_internal_pb2
    for content in _contents(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        yield record


def history(path: Path) -> List[Dict[str, float]]:
    """The rows that were logged: their columns, and ``_step``."""
    rows = []
    for record in records(path):
        if record.HasField('history'):
            row = {item.key or '.'.join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({k: v for k, v in row.items() if k == '_step' or not k.startswith('_')})
    return rows


def described(path: Path) -> Dict[str, Any]:
    """What the file says of its run: ``id``, ``tags``, ``name``, ``project`` and the first ``config``."""
    run = next(record.run for record in records(path) if record.HasField('run'))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    return dict(id=run.run_id, tags=list(run.tags), name=run.display_name, project=run.project, config=config)


def _contents(data: bytes) -> Iterator[bytes]:
    place, parts = _HEADER, []  # the file begins with a header of its own
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4:place + 6], 'little'), data[place + 6]
        parts.append(data[place + _HEADER:place + _HEADER + length])
        place += _HEADER + length
        if kind in (1, 4):  # a whole record, or the end of one
            yield b''.join(parts)
            parts = []
