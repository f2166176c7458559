"""``--input-size``: channels, height and width in one flag, as in timm's scripts, beside ``--img-size``."""
import argparse
from typing import Any, Dict

from iebn_zoo.util.errors import UsageError
from iebn_zoo.weights.settings import MAX_SIZE

_CHANNELS = (1, 3)


def settle_input_size(args: argparse.Namespace) -> None:
    """Set ``in_chans`` to the channels of ``--input-size``, if it is given; ``args`` is changed in place.

    Args:
        args: ``input_size``, ``img_size`` and ``in_chans``; None counts as not given.

    Raises:
        UsageError: The size is impossible, or ``--img-size`` or ``--in-chans`` say something else.
    """
    if args.input_size is None:
        return
    chans, height, width = args.input_size
    given = f'--input-size is {chans} {height} {width}'
    if chans not in _CHANNELS or not all(1 <= side <= MAX_SIZE for side in (height, width)):
        raise UsageError(f'{given}, expected 3 or 1 channels, then height and width from 1 to {MAX_SIZE} pixels.')
    for flag, value, own in (('--in-chans', args.in_chans, (chans,)), ('--img-size', args.img_size, (height, width))):
        if value is not None and set(own) != {value}:
            raise UsageError(f'{given}, and {flag} is {value}.\nGive --input-size alone.')
    args.in_chans = chans


def give_way(recipe: Dict[str, Any], flags: argparse.Namespace) -> None:
    """Remove from a recipe the size that a flag of the command line replaces; ``recipe`` is changed in place.

    Args:
        recipe: Checked values by flag.
        flags: The flags of the command line alone.
    """
    if getattr(flags, 'input_size', None) is not None:
        for name in ('img_size', 'in_chans'):
            recipe.pop(name, None)
    elif getattr(flags, 'img_size', None) is not None and recipe.get('input_size') is not None:
        chans = recipe.pop('input_size')[0]
        if recipe.get('in_chans') is None:
            recipe['in_chans'] = chans
