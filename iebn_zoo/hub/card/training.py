"""The card's section on how the weights were made: start, command, settings, versions, hardware, time."""
import shlex
from typing import Any, Dict, List, Optional

import timm

from iebn_zoo.hub.card.facts import Facts
from iebn_zoo.hub.card.text import code, escape, local_name, table, without_paths

_PRIVATE = ('data_dir', 'output', 'resume', 'overwrite', 'log_interval', 'device')


def training(facts: Facts) -> str:
    parts: List[str] = []
    environment = facts.environment
    command = environment.get('command')
    if isinstance(command, list) and command:
        line = shlex.join(without_paths([str(part) for part in command]))
        parts.append('```sh\n' + line.replace('`', "'") + '\n```')
    start = _start(facts.args)
    if start:
        parts.append(start)
    # by identity: 0 == False, and a weight decay of 0 is a setting
    known = {k: v for k, v in facts.args.items()
             if k not in _PRIVATE and v is not None and v is not False and v not in ('', {})}
    if known:
        parts.append(table(('setting', 'value'), [[code(k), code(_value(v))] for k, v in known.items()]))
    else:
        parts.append('The run left no args.yaml: its recipe is not known.')
    if environment:
        packages = ('iebn_zoo', 'timm', 'torch', 'python')
        versions = ', '.join(f'{k} {environment[k]}' for k in packages if k in environment)
        where = environment.get('gpu') or environment.get('cpu')
        lines = [f'Versions: {escape(versions)}; commit of iebn-zoo: {escape(environment.get("commit") or "unknown")}.',
                 f'Hardware: {escape(where or "unknown")}, {escape(environment.get("num_processes", 1))} process(es).']
        if facts.timing:
            mean = sum(row['seconds'] for row in facts.timing) / len(facts.timing)
            speed = sum(row['images_per_second'] for row in facts.timing) / len(facts.timing)
            lines.append(f'{mean:.1f} seconds an epoch of training, {speed:.0f} images/s (means over the epochs).')
        parts.append('\n'.join(lines))
    else:
        parts.append('The run left no environment.json: versions and hardware are not known.')
    return '\n\n'.join(parts)


def base_model(args: Dict[str, Any]) -> Optional[str]:
    """Hub id of the weights the run started from, or None."""
    name = str(args.get('model') or '')
    if not args.get('pretrained'):
        return None
    if name.startswith('hf-hub:'):
        return name[len('hf-hub:'):].split('@')[0]
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that this timm does not have
        return None
    return (cfg.hf_hub_id or None) if cfg is not None else None


def _start(args: Dict[str, Any]) -> Optional[str]:
    base = base_model(args)
    if base:
        return f'Fine-tuned from the weights of {code(base)}.'
    if args.get('pretrained') or args.get('initial_checkpoint'):
        return 'Started from the weights of another model or checkpoint.'
    return None


def _value(value: Any) -> str:
    return local_name(value) if isinstance(value, str) else str(value)
