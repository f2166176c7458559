"""What a checkpoint says of its images and classes, checked before anything is built from it."""
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from iebn_zoo.errors import IEBNZooError

_MAX_SIZE = 4096  # px, and channels


def check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise IEBNZooError for an input setting that no image can be prepared with.

    Args:
        settings: By name; what is None, or is no input setting, is not looked at.
        where: They stand, for the message.
    """
    for name, (fits, expected) in _SETTINGS.items():
        value = settings.get(name)
        if value is not None and not fits(value):
            raise IEBNZooError(f'{where} has {name} {shortened(value)}.\nExpected {expected}. Correct the file.')


def label_names_of(content: Mapping[str, Any], path: Path) -> Optional[List[str]]:
    """The names of the classes in a checkpoint, or None where it has none.

    Raises:
        IEBNZooError: They are no list of texts.
    """
    names = content.get('label_names')
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise IEBNZooError(f'{path} has label_names {shortened(names)}.\nExpected a list of texts, one a class.')
    return list(names) or None


def shortened(value: Any) -> str:
    """``repr`` in at most 80 characters of one line."""
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + '...'


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIZE


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_SETTINGS: Dict[str, Tuple[Callable[[Any], bool], str]] = {
    'input_size': (lambda v: isinstance(v, (list, tuple)) and len(v) == 3 and all(map(_is_size, v)),
                   f'[channels, height, width] of at most {_MAX_SIZE} each'),
    'img_size': (_is_size, f'pixels, at most {_MAX_SIZE}'),
    'mean': (_are_numbers, 'a number a channel'),
    'std': (lambda v: _are_numbers(v) and min(v) > 0, 'a positive number a channel'),
    'interpolation': (_is_text, 'a name such as bicubic'),
    'crop_pct': (lambda v: _is_number(v) and 0 < v <= 2, 'the part of the image that is kept, such as 0.95'),
    'crop_mode': (_is_text, 'a name such as center'),
}
