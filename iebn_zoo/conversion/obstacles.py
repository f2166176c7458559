"""What keeps a module from being replaced: each function returns a reason, or None."""
from typing import Dict, List, Optional, Sequence, Tuple, Type

import torch
from timm.layers import BatchNormAct2d, SplitBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from iebn_zoo.errors import UsageError
from iebn_zoo.layers import IEBatchNorm2d

_WRAPPERS = ('torch.nn.parallel.distributed', 'torch.distributed.fsdp', 'torch.distributed._composable')
_QUANTIZATION = ('torch.ao.', 'torch.nn.intrinsic', 'torch.nn.quantized', 'torch.nn.qat')
_STATISTICS = ('running_mean', 'running_var')
_ADVICE: Tuple[Tuple[Tuple[Type[nn.Module], ...], str], ...] = (
    ((IEBatchNorm2d,), 'is gated already'),
    ((LazyModuleMixin,), 'has no size yet: run one batch through the model first'),
    ((nn.SyncBatchNorm,), 'convert to IEBN first, then with convert_sync_batchnorm'),
    ((SplitBatchNorm2d,), 'convert to IEBN first, then with convert_splitbn_model'),
    ((nn.BatchNorm1d, nn.BatchNorm3d), 'normalizes inputs that are not 4-D'),
    ((nn.BatchNorm2d,), 'is a subclass of BatchNorm2d, which may compute something else'),
)


def check_model(model: nn.Module) -> None:
    """Raise UsageError for what cannot be changed in place: no module, a compiled or a distributed one."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f'cannot convert a {type(model).__name__}.\n'
            f'Expected a torch.nn.Module; convert before exporting, and load a checkpoint into its model first.')
    for name, module in model.named_modules():
        where = f'{name or "the model"} ({type(module).__name__})'
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f'{where} is compiled by TorchScript, so its norms cannot be replaced.\n'
                             f'Convert the original model, then script or trace it.')
        if any(c.__module__.startswith(_WRAPPERS) for c in type(module).__mro__):
            raise UsageError(f'{where} manages its parameters across processes and would not know the new ones.\n'
                             f'Convert the model first, then wrap it.')


def is_norm(module: nn.Module) -> bool:
    """Whether a conversion to IEBN has to say something about this module: BatchNorm of any kind."""
    if isinstance(module, (_BatchNorm, IEBatchNorm2d)):
        return True
    contains_norm = any(isinstance(m, _BatchNorm) for m in module.modules())
    # timm's InplaceAbn and the frozen norms are known by their statistics; quantization's conv-norm pairs read theirs
    return _is_quantization(module) if contains_norm else all(name in module._buffers for name in _STATISTICS)


def _is_quantization(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_QUANTIZATION)


def foreign_kind(norm: nn.Module) -> Optional[str]:
    """Unless it is exactly torch's BatchNorm2d or timm's BatchNormAct2d: what to do about it."""
    if type(norm) in (nn.BatchNorm2d, BatchNormAct2d):
        return None
    if hasattr(norm, 'parametrizations'):
        return 'is parametrized: remove_parametrizations first'
    if _is_quantization(norm):
        return 'belongs to quantization: convert to IEBN first'
    if type(norm).__name__.startswith('Frozen'):
        return 'is frozen: timm.layers.unfreeze_batch_norm_2d first'
    return next((advice for kinds, advice in _ADVICE if isinstance(norm, kinds)), 'is not a BatchNorm2d')


def altered(module: nn.Module, children: Sequence[str] = ()) -> Optional[str]:
    """Whether an instance does more than its class: hooks, a forward or state of its own, unusual parameters.

    Args:
        module: A norm.
        children: The names of children that its class gives it.
    """
    hooks = [name.strip('_') for name, value in vars(module).items() if name.endswith('_hooks') and value]
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


def half_statistics(norm: nn.Module) -> Optional[str]:
    """Whether running statistics are to be updated that are not there."""
    if norm.track_running_stats and any(v is None for v in norm._buffers.values()):
        return 'tracks running statistics that are None'
    return None


def tied_weights(model: nn.Module) -> Dict[nn.Module, str]:
    """Modules whose ``weight`` is another module's parameter too, which a changed copy would untie."""
    owners: Dict[nn.Parameter, List[nn.Module]] = {}
    names = {}
    for name, module in model.named_modules():
        names[module] = name
        for parameter in set(module._parameters.values()) - {None}:
            owners.setdefault(parameter, []).append(module)
    shared = {m: modules for p, modules in owners.items() for m in modules
              if len(modules) > 1 and m._parameters.get('weight') is p}
    return {m: f'shares its weight with {next(names[o] for o in modules if o is not m)}'
            for m, modules in shared.items()}
