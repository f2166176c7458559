"""What keeps a network, or a norm of any kind, from being changed in place: common to folding and both conversions."""
from typing import Optional, Sequence

import torch
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations
from torchvision.ops.misc import FrozenBatchNorm2d

from iebn_zoo._compat import buffers_of, children_of, has_compiled_call, hooks_of, is_compiled, parameters_of
from iebn_zoo.conversion.folding.layer import keeps_bias
from iebn_zoo.conversion.obstacles import hooked_weight, tied
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.layers.statistics import BatchNormStatistics2d
from iebn_zoo.util.errors import UsageError

_WRAPPERS = ('torch.nn.parallel.distributed', 'torch.distributed.fsdp', 'torch.distributed._composable')
_PARAMETRIZED = 'parametrizations'
_KNOWN_CHILDREN = (BatchNormStatistics2d, nn.BatchNorm2d, nn.SyncBatchNorm, SplitBatchNorm2d, FrozenBatchNorm2d)
_CHILDREN_OF_CHILD = ('aux_bn', _PARAMETRIZED)  # aux_bn of SplitBatchNorm2d
_STATISTICS = ('running_mean', 'running_var')


def check_model(model: nn.Module) -> None:
    """Raise UsageError for what cannot be changed in place: what is not a module, or is compiled or parallel."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f'cannot convert a {type(model).__name__}.\n'
            f'Expected a torch.nn.Module; convert before exporting, and load a checkpoint into its model first.')
    for name, module in model.named_modules():
        where = f'{name or "the model"} ({type(module).__name__})'
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f'{where} is compiled by TorchScript, so its norms cannot be replaced.\n'
                             f'Convert the original model, then script or trace it.')
        if is_compiled(module):
            raise UsageError(f'{where} is compiled by torch.compile and may go on with its old norms.\n'
                             f'Give the original model, its _orig_mod, and compile what comes out.')
        if isinstance(module, nn.DataParallel):
            raise UsageError(f'{name or "the model"} is wrapped in DataParallel.\n'
                             f'Give the network within, its module, and wrap what comes out.')
        if any(c.__module__.startswith(_WRAPPERS) for c in type(module).__mro__):
            raise UsageError(f'{where} manages its parameters across processes and would not know the new ones.\n'
                             f'Convert the model first, then wrap it.')


def check_layer(name: str, layer: IEBatchNorm2d, exact: bool) -> None:
    """Raise UsageError for an IEBN layer that no BatchNorm2d can take the place of, whatever its gates.

    Args:
        name: Of the layer, for the message.
        layer: The layer, which may do more than its class.
        exact: The BatchNorm2d is to have its tensors and to compute the same in training too.
    """
    reason = _not_exact(layer) if exact else _other_child(layer.bn)
    if type_before_parametrizations(layer) not in (IEBatchNorm2d, IEBatchNormAct2d):
        reason = 'is a subclass, which may compute something else'
    if any(t.is_meta for t in layer.parameters()):
        reason = 'is on the meta device and has no values'
    reason = reason or altered(layer, ('bn', 'drop', 'act', _PARAMETRIZED)) or altered(layer.bn, _CHILDREN_OF_CHILD)
    if reason is not None:
        raise UsageError(f'{name} ({type(layer).__name__}) cannot become a BatchNorm2d: it {reason}.')


def check_ties(model: nn.Module) -> None:
    """Raise UsageError for an IEBN layer whose weight, or a bias that has to be another one, is in a second place too.

    The BatchNorm2d has the gate in its weight: two layers that share theirs would no longer.
    """
    weights, biases = tied(model, 'weight'), tied(model, 'bias')
    for name, layer in model.named_modules():
        if isinstance(layer, IEBatchNorm2d):
            reason = weights.get(layer) or (None if keeps_bias(layer) else biases.get(layer))
            if reason is not None:
                key = 'weight' if layer in weights else 'bias'
                where = f'layer.{key}'
                raise UsageError(
                    f'{name or "the model"} ({type(layer).__name__}) cannot become a BatchNorm2d: it {reason}, and '
                    f'its gate goes into its own alone, so that the two cannot stay one.\n'
                    f'Untie them first: {where} = torch.nn.Parameter({where}.detach().clone()).')


def _not_exact(layer: IEBatchNorm2d) -> Optional[str]:
    if hasattr(layer, _PARAMETRIZED):
        return 'is parametrized: remove_parametrizations first'
    if type(layer.bn) not in (BatchNormStatistics2d, nn.BatchNorm2d):
        kind = type(layer.bn).__name__
        frozen = kind.startswith('Frozen')
        return f'has its statistics in a {kind}: ' + (
            'timm.layers.unfreeze_batch_norm_2d first' if frozen else 'load its state dict into the network without it')
    if any((v is not None) != layer.bn.track_running_stats for v in buffers_of(layer.bn).values()):
        return f'has track_running_stats={layer.bn.track_running_stats} and does not have just the statistics for it'
    return hooked_weight(layer)


def _other_child(child: nn.Module) -> Optional[str]:
    kind = type_before_parametrizations(child)
    if kind in _KNOWN_CHILDREN or not issubclass(kind, _KNOWN_CHILDREN):  # folding.layer refuses what is none of them
        return None
    return f'has its statistics in a {kind.__name__}, which may compute something else'


def altered(module: nn.Module, children: Sequence[str] = ()) -> Optional[str]:
    """Return what an instance has more than its class, or None: hooks, a forward or state of its own, other parameters.

    Args:
        module: A norm.
        children: The names of children that its class gives it.
    """
    hooks = hooks_of(module)
    if hooks:
        return f'has {hooks[0]}: remove them first'
    if 'forward' in vars(module):
        return 'has a forward of its own'
    if has_compiled_call(module):
        return 'is compiled: compile after converting'
    known = {'weight', 'bias', 'gate_weight', 'gate_bias', *_STATISTICS, 'num_batches_tracked', *children}
    more = [k for k in (*parameters_of(module), *buffers_of(module), *children_of(module)) if k not in known]
    if more:
        return f'has {more[0]!r}, which it could not keep'
    for name, parameter in parameters_of(module).items():
        if parameter is not None and type(parameter) is not nn.Parameter:
            return f'has a {type(parameter).__name__} as its {name}: convert before sharding or wrapping'
    return None
