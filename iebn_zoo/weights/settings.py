"""Input settings and names of classes, and the checks of what a file says about them."""
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from timm.data.config import resolve_data_config
from torch import nn

from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line

FIELDS = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
FLAGS = ('input_size', 'img_size', 'mean', 'std', 'interpolation', 'crop_pct')  # our flags and those of timm's scripts
SIZES = ('input_size', 'img_size')  # two names of the size of an image
# timm's names of how an evaluation resizes an image; its word random is for training
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')
# what a file of weights may say; training refuses more, because nothing could open what it would write
MAX_SIZE = 4096  # pixels, and channels
MAX_NUMBER = 1e6  # mean and std are below it; pixels are at most 255


def cfg_of(model: nn.Module) -> Dict[str, Any]:
    """Return what timm records about the weights of a network (``pretrained_cfg``); {} of a network without it."""
    return getattr(model, 'pretrained_cfg', None) or {}


def set_cfg(model: nn.Module, cfg: Dict[str, Any]) -> None:
    """Record ``cfg`` about the weights of a network, in the two places where timm looks for it."""
    for name in ('pretrained_cfg', 'default_cfg'):
        setattr(model, name, cfg)


def model_settings(model: nn.Module, flags: Mapping[str, Any]) -> Dict[str, Any]:
    """Return input size and preprocessing: the flags over the settings of the model.

    Args:
        model: Network with timm's ``pretrained_cfg``.
        flags: Values by the names in FLAGS and ``in_chans``; None counts as not given.

    Returns:
        Values by the names in FIELDS, as JSON values.

    Raises:
        UsageError: The flags contradict each other.
    """
    given = {k: v for k in (*FLAGS, 'in_chans') if (v := flags.get(k)) is not None}
    chans = given.get('in_chans') or getattr(model, 'in_chans', None) or 3
    if 'input_size' in given and given['input_size'][0] != chans:
        raise UsageError(f"--input-size is {' '.join(map(str, given['input_size']))}, and the model takes {chans} "
                         f'channels.\nGive the channels of the model first, then height and width.')
    for key in ('mean', 'std'):
        if key in given and len(given[key]) not in (1, chans):
            raise UsageError(f'--{key} has {len(given[key])} values, expected {chans}, one per channel.')
    try:
        resolved = resolve_data_config(given, model=model)
    except (AssertionError, ValueError) as e:
        raise UsageError(f'the image settings contradict: {first_line(e)}') from e
    for key in ('mean', 'std'):
        if len(resolved[key]) != chans:  # a grey model with an RGB configuration takes the mean over its channels
            resolved[key] = (sum(resolved[key]) / len(resolved[key]),) * chans
    resolved['input_size'] = (chans, *resolved['input_size'][1:])
    return {k: list(resolved[k]) if isinstance(resolved[k], tuple) else resolved[k] for k in FIELDS}


def trained_settings(
        model: nn.Module,
        flags: Mapping[str, Any],
        trained: Optional[Mapping[str, Any]],
        source: str,
) -> Dict[str, Any]:
    """Return the input settings of the training; the flags replace some of them.

    Args:
        model: Network with timm's ``pretrained_cfg``.
        flags: See ``model_settings``.
        trained: Values by the names in FIELDS, from a file, or None.
        source: The file, for messages.

    Raises:
        UsageError: The flags contradict each other.
        IEBNZooError: The file's settings do not fit the input channels of the model.
    """
    asked = model_settings(model, flags)
    settings = {**asked, **{k: v for k, v in (trained or {}).items() if v not in (None, '')}}
    for flag in FLAGS:
        if flags.get(flag) is not None:
            key = 'input_size' if flag == 'img_size' else flag
            settings[key] = asked[key]
    chans = asked['input_size'][0]
    for key, count in (('input_size', settings['input_size'][0]), ('mean', len(settings['mean'])),
                       ('std', len(settings['std']))):
        if count != chans:
            raise IEBNZooError(f'{source} has {key} {list(settings[key])} for a network of {chans} input channels.\n'
                               f"Correct the file's data_config.")
    return settings


def check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise IEBNZooError for an input setting with which no image can be prepared.

    Args:
        settings: Settings by name; None and names of other settings are ignored.
        where: The place of the settings, for the message.
    """
    for name, (fits, expected) in _SETTINGS.items():
        value = settings.get(name)
        if value is not None and not fits(value):
            raise IEBNZooError(f'{where} has {name} {shortened(value)}.\nExpected {expected}. Correct the file.')


def label_names_of(content: Mapping[str, Any], path: Path) -> Optional[List[str]]:
    """Return the names of the classes in a checkpoint, or None where it has none.

    Raises:
        IEBNZooError: The names are no list of texts.
    """
    return label_names_in(content.get('label_names'), str(path))


def label_names_in(names: Any, source: str) -> Optional[List[str]]:
    """Return the names of the classes in the order of the logits, or None where there are none.

    Args:
        names: A list of texts, or texts by number, as some repositories have them.
        source: Where they come from, for the message.

    Raises:
        IEBNZooError: They are something else.
    """
    if isinstance(names, dict):
        names = [names.get(str(i), names.get(i)) for i in range(len(names))]
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(map(_is_text, names)):
        raise IEBNZooError(f'{source} has label_names {shortened(names)}.\nExpected a list of texts, one per class.')
    return list(names) or None


def check_label_count(names: Optional[List[str]], num_classes: int, source: str) -> None:
    """Raise IEBNZooError if there are names, but not one per class."""
    if names and len(names) != num_classes:
        raise IEBNZooError(f'{source} has {len(names)} label names for {num_classes} classes.\n'
                           f'Correct the file that names them, or use weights that come with their names.')


def shortened(value: Any) -> str:
    """Return ``repr(value)`` in one line of at most 80 characters."""
    try:
        text = ' '.join(repr(value).split())
    except RecursionError:
        text = f'a {type(value).__name__} of too many levels'
    return text if len(text) <= 80 else text[:77] + '...'


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIZE


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    # half of a surrogate pair can neither be printed nor written to a file
    return isinstance(value, str) and not any('\ud800' <= c <= '\udfff' for c in value)


_SETTINGS: Dict[str, Tuple[Callable[[Any], bool], str]] = {
    'input_size': (lambda v: isinstance(v, (list, tuple)) and len(v) == 3 and all(map(_is_size, v)),
                   f'[channels, height, width] of at most {MAX_SIZE} each'),
    'img_size': (_is_size, f'pixels, at most {MAX_SIZE}'),
    'mean': (_are_numbers, 'a number per channel'),
    'std': (lambda v: _are_numbers(v) and min(v) > 0, 'a positive number per channel'),
    # timm's training writes '' for that of the network
    'interpolation': (lambda v: isinstance(v, str) and v in ('', *INTERPOLATIONS),
                      f'one of {", ".join(INTERPOLATIONS)}'),
    'crop_pct': (lambda v: _is_number(v) and 0 < v <= 2, 'the part of the image that is kept, such as 0.95'),
    'crop_mode': (_is_text, 'a name such as center'),
}
