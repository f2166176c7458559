"""Reads a config.json that a stranger wrote, so that it cannot crash, exhaust or mislead its reader."""
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

from iebn_zoo.util.errors import IEBNZooError, first_line

_MAX_BYTES = 32 << 20  # ImageNet-22k with descriptions takes 3 MB
_MAX_DEPTH = 16
_MAX_DIGITS = 20
# fields that send timm to other weights than those beside the file
_PLACES = ('url', 'file', 'state_dict', 'hf_hub_filename', 'custom_load')


def read_config(path: Union[str, Path]) -> Dict[str, Any]:
    """Read config.json.

    Args:
        path: The file.

    Returns:
        Its object: text that is Unicode, whole numbers of a sane length, no key twice, at most 16 levels deep.

    Raises:
        IEBNZooError: It cannot be read, is too large, or is not such JSON.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f'{size:,} bytes, more than {_MAX_BYTES:,}')
        config = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=_object, parse_int=_integer)
        if not isinstance(config, dict):
            raise ValueError(f'a {type(config).__name__}, not an object')
        _check_values(config)
    except (OSError, ValueError, RecursionError, MemoryError) as e:
        raise IEBNZooError(f'{path} cannot be read ({type(e).__name__}: {first_line(e, 160)}).\n'
                           f'Expected JSON as export writes it.') from e
    return config


def check_places(path: Union[str, Path], config: Dict[str, Any]) -> None:
    """Check that a config.json does not name another place of weights than the one it lies in.

    Raises:
        IEBNZooError: A field names another place; the message names the field.
    """
    for where, section in (('', config), ('pretrained_cfg.', config.get('pretrained_cfg'))):
        if not isinstance(section, dict):
            continue
        for field in _PLACES:
            if section.get(field):
                raise IEBNZooError(
                    f'{path}: {where}{field} names another place or form of weights: refused.\n'
                    f'Expected the weights beside it, as export writes them. Take the field out if you trust the rest.')


def license_id(value: Any) -> Optional[str]:
    """Return ``value`` if it can be the Hub id of a license and names one, else None: it goes into cards as it is."""
    known = isinstance(value, str) and re.fullmatch(r'[a-z0-9][a-z0-9.+-]*', value) and value != 'unknown'
    return value if known else None


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made: Dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f'{key[:80]!r} stands twice in one object')
        made[key] = value
    return made


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f'a number of {len(text)} digits')
    return int(text)


def _check_values(config: Dict[str, Any]) -> None:
    level: List[Any] = [config]
    for _ in range(_MAX_DEPTH):
        for text in (text for value in level for text in _texts(value)):
            text.encode('utf-8')  # half of a surrogate pair cannot be printed or written
        level = [inner for value in level if isinstance(value, (dict, list))
                 for inner in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise ValueError(f'more than {_MAX_DEPTH} levels deep')


def _texts(value: Any) -> List[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
