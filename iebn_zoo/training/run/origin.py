"""Where the first weights of a run came from, and under which license: it is the license of the trained weights.

A run records both in its checkpoints, since the first weights may be gone when it is exported. For a run of an earlier
version they are found from its flags, unless these name a place on a machine: no file may choose what is opened here.
"""
import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import timm
import yaml
from huggingface_hub import try_to_load_from_cache

from iebn_zoo.util.places import canonical_name
from iebn_zoo.weights.config import license_id

DEFAULT_LICENSE = 'apache-2.0'
_UNKNOWN: Dict[str, Any] = dict(scratch=False, license=None)


def find_start(
        flags: Mapping[str, Any],
        begin: Optional[Mapping[str, Any]] = None,
        pretrained_cfg: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Find what a run started from.

    Args:
        flags: The flags of the run, by name, as its user gave them.
        begin: The checkpoint that ``initial_checkpoint`` names, if it has been read.
        pretrained_cfg: timm's description of the network with its pretrained weights, if it has been built.

    Returns:
        ``scratch``, whether all weights were drawn at random, here or in the run whose checkpoint it started from; and
        ``license``, the Hub id of the license of the first weights, or None where it is unknown.
    """
    if flags.get('initial_checkpoint'):
        return _of_file(Path(str(flags['initial_checkpoint'])), begin or {})
    return _of_name(flags, pretrained_cfg, own=True)


def start_of(checkpoint: Mapping[str, Any], flags: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the start that a checkpoint records, or else what the flags of the run say.

    Args:
        checkpoint: The content of the checkpoint.
        flags: The flags of the run as a file has them. A place on a machine among them is not opened: what started from
            it is unknown.
    """
    recorded = checkpoint.get('start')
    if isinstance(recorded, Mapping):
        return dict(scratch=recorded.get('scratch') is True, license=license_id(recorded.get('license')))
    if not flags or flags.get('initial_checkpoint'):
        return dict(_UNKNOWN)
    return _of_name(flags, None, own=False)


def license_of(start: Mapping[str, Any]) -> Optional[str]:
    """Return the license of weights that were trained from ``start``: our default only if they began at random."""
    return DEFAULT_LICENSE if start['scratch'] else start['license']


def _of_name(flags: Mapping[str, Any], cfg: Optional[Mapping[str, Any]], own: bool) -> Dict[str, Any]:
    if not flags.get('pretrained'):
        return dict(scratch=True, license=None)
    cfg = cfg if cfg is not None else _named(canonical_name(str(flags.get('model') or '')), own)
    return dict(scratch=False, license=license_id(cfg.get('license')))


def _of_file(path: Path, begin: Mapping[str, Any]) -> Dict[str, Any]:
    if isinstance(begin.get('start'), Mapping):
        return start_of(begin, {})
    config = _config(path.parent / 'config.json')  # the weights of an export
    if config is not None:
        return dict(scratch=False, license=license_id(config.get('license')))
    flags = begin.get('args') if isinstance(begin.get('args'), Mapping) else _flags(path.parent / 'args.yaml')
    if flags and 'initial_checkpoint' in flags:  # a run of an earlier version
        return start_of({}, flags)
    return dict(_UNKNOWN)


def _named(name: str, own: bool) -> Mapping[str, Any]:
    if name.startswith('local-dir:'):
        return (_config(Path(name.removeprefix('local-dir:')) / 'config.json') or {}) if own else {}
    if name.startswith('hf-hub:'):
        repo_id, _, revision = name.removeprefix('hf-hub:').partition('@')
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
