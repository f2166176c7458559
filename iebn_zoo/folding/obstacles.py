"""What keeps a network, or a norm of any kind, from being changed in place: common to folding and both conversions."""
from typing import Optional, Sequence

import torch
from torch import nn

from iebn_zoo.errors import UsageError
from iebn_zoo.folding.hooks import hooks_of

_WRAPPERS = ('torch.nn.parallel.distributed', 'torch.distributed.fsdp', 'torch.distributed._composable')
_STATISTICS = ('running_mean', 'running_var')


def check_model(model: nn.Module) -> None:
    """Raise UsageError for what cannot be changed in place: no module, a compiled or a parallel one."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f'cannot convert a {type(model).__name__}.\n'
            f'Expected a torch.nn.Module; convert before exporting, and load a checkpoint into its model first.')
    for name, module in model.named_modules():
        where = f'{name or "the model"} ({type(module).__name__})'
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f'{where} is compiled by TorchScript, so its norms cannot be replaced.\n'
                             f'Convert the original model, then script or trace it.')
        if isinstance(module, nn.DataParallel):
            raise UsageError(f'{name or "the model"} is wrapped in DataParallel.\n'
                             f'Give the network within, its module, and wrap what comes out.')
        if any(c.__module__.startswith(_WRAPPERS) for c in type(module).__mro__):
            raise UsageError(f'{where} manages its parameters across processes and would not know the new ones.\n'
                             f'Convert the model first, then wrap it.')


def altered(module: nn.Module, children: Sequence[str] = ()) -> Optional[str]:
    """Whether an instance does more than its class: hooks, a forward or state of its own, unusual parameters.

    Args:
        module: A norm.
        children: The names of children that its class gives it.
    """
    hooks = hooks_of(module)
    if hooks:
        return f'has {hooks[0]}: remove them first'
    if 'forward' in vars(module):
        return 'has a forward of its own'
    known = {'weight', 'bias', 'gate_weight', 'gate_bias', *_STATISTICS, 'num_batches_tracked', *children}
    more = [k for k in (*module._parameters, *module._buffers, *module._modules) if k not in known]
    if more:
        return f'has {more[0]!r}, which it could not keep'
    for name, parameter in module._parameters.items():
        if parameter is not None and type(parameter) is not nn.Parameter:
            return f'has a {type(parameter).__name__} as its {name}: convert before sharding or wrapping'
    return None
