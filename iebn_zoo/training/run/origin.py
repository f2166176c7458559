"""Where the first weights of a run came from, and under which license they are: it is the license of what was trained.

A run records it in its checkpoints, since the weights it started from may be elsewhere when it is exported. For a run
of an older version it is found from the run's flags, as far as what they name is still there.
"""
import json
import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import timm
import yaml
from huggingface_hub import try_to_load_from_cache

DEFAULT_LICENSE = 'apache-2.0'
_CHAIN = 8  # runs that each started from the one before


def find_start(
        flags: Mapping[str, Any],
        begin: Optional[Mapping[str, Any]] = None,
        pretrained_cfg: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """What a run started from.

    Args:
        flags: Of the run, by name.
        begin: The checkpoint that ``initial_checkpoint`` names, if it has been read.
        pretrained_cfg: Of the network with its pretrained weights, if it has been built.

    Returns:
        ``scratch``, whether all weights were drawn at random, here or in the run whose checkpoint it started from; and
        ``license``, the Hub id of the license of what it started from, or None where that is not known.
    """
    return _find(flags, begin, pretrained_cfg, _CHAIN)


def start_of(checkpoint: Mapping[str, Any], flags: Mapping[str, Any]) -> Dict[str, Any]:
    """The start that a checkpoint of a run records, or what its flags say; nothing is known without either."""
    recorded = checkpoint.get('start')
    if isinstance(recorded, Mapping):
        return dict(scratch=recorded.get('scratch') is True, license=license_id(recorded.get('license')))
    return find_start(flags) if flags else dict(scratch=False, license=None)


def license_of(start: Mapping[str, Any]) -> Optional[str]:
    """The license of weights that were trained from ``start``: only what began at random is under our default."""
    return DEFAULT_LICENSE if start['scratch'] else start['license']


def license_id(value: Any) -> Optional[str]:
    """``value`` if it is a Hub id of a license that says something, else None."""
    known = isinstance(value, str) and re.fullmatch(r'[a-z0-9][a-z0-9.+-]*', value) and value != 'unknown'
    return value if known else None


def _find(flags: Mapping[str, Any], begin: Optional[Mapping[str, Any]], cfg: Optional[Mapping[str, Any]],
          chain: int) -> Dict[str, Any]:
    if flags.get('initial_checkpoint'):
        return _of_file(Path(str(flags['initial_checkpoint'])), begin or {}, chain)
    if flags.get('pretrained'):
        cfg = cfg if cfg is not None else _named(str(flags.get('model') or ''))
        return dict(scratch=False, license=license_id(cfg.get('license')))
    return dict(scratch=True, license=None)


def _of_file(path: Path, begin: Mapping[str, Any], chain: int) -> Dict[str, Any]:
    if isinstance(begin.get('start'), Mapping):
        return start_of(begin, {})
    config = _config(path.parent / 'config.json')  # an export's weights
    if config is not None:
        return dict(scratch=False, license=license_id(config.get('license')))
    flags = begin.get('args') if isinstance(begin.get('args'), Mapping) else _flags(path.parent / 'args.yaml')
    if flags and 'initial_checkpoint' in flags and chain:  # of a run of ours, before it recorded its start
        return _find(flags, None, None, chain - 1)
    return dict(scratch=False, license=None)


def _named(name: str) -> Mapping[str, Any]:
    if name.startswith('local-dir:'):
        return _config(Path(name.removeprefix('local-dir:')) / 'config.json') or {}
    if re.match('hf[-_]hub:', name):
        repo_id, _, revision = name[len('hf-hub:'):].partition('@')
        try:
            found = try_to_load_from_cache(repo_id, 'config.json', revision=revision or None)
        except ValueError:  # no repository id
            found = None
        return (_config(Path(found)) or {}) if isinstance(found, str) else {}
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that this timm does not have
        cfg = None
    return cfg.to_dict() if cfg is not None else {}


def _config(path: Path) -> Optional[Mapping[str, Any]]:
    try:
        cfg = json.loads(path.read_text(encoding='utf-8'))['pretrained_cfg']
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return cfg if isinstance(cfg, dict) else None


def _flags(path: Path) -> Mapping[str, Any]:
    try:
        flags = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return flags if isinstance(flags, dict) else {}
