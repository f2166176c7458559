"""The network that a conversion starts from, whatever names it: a timm name, the Hub, a directory, a checkpoint."""
import argparse

import timm

from iebn_zoo.util.errors import UsageError
from iebn_zoo.weights.open import Network as Source
from iebn_zoo.weights.open import open_network

__all__ = ['Source', 'open_source']


def open_source(args: argparse.Namespace) -> Source:
    """Open the network that the flags name.

    Args:
        args: ``model``, ``pretrained``, ``checkpoint``, ``use_ema``, ``model_kwargs`` and the flags of
            ``add_data_arguments``.

    Raises:
        UsageError: There is no such model or file, flags contradict, or the weights are of another kind of network.
        IEBNZooError: The weights are damaged, are not finite, or do not fit the model.
    """
    name = args.model
    if args.checkpoint and args.pretrained:
        raise UsageError('--pretrained has weights of its own, and --checkpoint gives others.\n'
                         'Name the architecture alone, such as --model resnet50.')
    if name and not args.checkpoint:
        if ':' not in name and timm.is_model(name.split('.')[0]) and not args.pretrained:
            raise UsageError(f'--model {name} alone has random weights.\n'
                             f'Add --pretrained, or give --checkpoint FILE, local-dir:DIR or hf-hub:ID.')
        if args.model_kwargs:
            raise UsageError('--model-kwargs says how to build the network of a --checkpoint.\n'
                             'Leave it out: these weights come with their arguments.')
    source = open_network(name, args.checkpoint, use_ema=args.use_ema, model_args=args.model_kwargs,
                          flags={**vars(args), 'in_chans': None}, convert=False)
    own = getattr(source.model, 'in_chans', args.in_chans)
    if args.in_chans not in (None, own):
        raise UsageError(f'--in-chans is {args.in_chans}, but {source.shown} has {own}.\n'
                         f'A conversion keeps the head and the stem: leave the flag out.')
    return source
