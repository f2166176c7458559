"""Hooks of a module that another one takes the place of."""
from typing import List

from torch import nn


def hooks_of(module: nn.Module) -> List[str]:
    """The names of the kinds of hooks that a module has of its own: ['forward_hooks']."""
    return [name.strip('_') for name, value in vars(module).items() if name.endswith('_hooks') and value]


def take_hooks(module: nn.Module, old: nn.Module) -> nn.Module:
    """Let ``module``, which has no hooks where ``old`` has some, run those of ``old`` in its place.

    The dicts themselves move, so that the handles which registering returned still remove the hooks.
    """
    if hooks_of(old):
        vars(module).update({name: value for name, value in vars(old).items() if '_hook' in name})
    if (old._backward_hooks or old._backward_pre_hooks) and getattr(module, 'inplace', False):
        module.inplace = False  # torch has no backward hooks on what overwrites its input
    return module
