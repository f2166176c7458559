"""What keeps a norm from becoming an IEBN layer: each function returns a reason, or None."""
from typing import Dict, List, Optional, Tuple

from timm.layers.norm_act import BatchNormAct2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from iebn_zoo._compat import BatchNormBase, buffers_of, parameters_of
from iebn_zoo.layers import IEBatchNorm2d

_QUANTIZATION = ('torch.ao.', 'torch.nn.intrinsic', 'torch.nn.quantized', 'torch.nn.qat')
_STATISTICS = ('running_mean', 'running_var')
_ADVICE: Tuple[Tuple[Tuple[type, ...], str], ...] = (
    ((IEBatchNorm2d,), 'is gated already'),
    ((LazyModuleMixin,), 'has no size yet: run one batch through the model first'),
    ((nn.SyncBatchNorm,), 'convert to IEBN first, then with convert_sync_batchnorm'),
    ((SplitBatchNorm2d,), 'convert to IEBN first, then with convert_splitbn_model'),
    ((nn.BatchNorm1d, nn.BatchNorm3d), 'normalizes inputs that are not 4-D'),
    ((nn.BatchNorm2d,), 'is a subclass of BatchNorm2d, which may compute something else'),
)


def is_norm(module: nn.Module) -> bool:
    """Whether the report of a conversion to IEBN mentions this module, which is a BatchNorm of some kind."""
    if isinstance(module, (BatchNormBase, IEBatchNorm2d)):
        return True
    contains_norm = any(isinstance(m, BatchNormBase) for m in module.modules())
    # timm's InplaceAbn and the frozen norms are known by their statistics; quantization's conv-norm pairs read theirs
    return _is_quantization(module) if contains_norm else all(name in buffers_of(module) for name in _STATISTICS)


def _is_quantization(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_QUANTIZATION)


def foreign_kind(norm: nn.Module) -> Optional[str]:
    """Say what to do about a norm that is not exactly torch's BatchNorm2d or timm's BatchNormAct2d."""
    if type(norm) in (nn.BatchNorm2d, BatchNormAct2d):
        return None
    if hasattr(norm, 'parametrizations'):
        return 'is parametrized: remove_parametrizations first'
    if _is_quantization(norm):
        return 'belongs to quantization: convert to IEBN first'
    if type(norm).__name__.startswith('Frozen'):
        return 'is frozen: timm.layers.unfreeze_batch_norm_2d first'
    return next((advice for kinds, advice in _ADVICE if isinstance(norm, kinds)), 'is not a BatchNorm2d')


def half_statistics(norm: nn.Module) -> Optional[str]:
    """Say so if the norm is to update running statistics that are not there."""
    if norm.track_running_stats and any(v is None for v in buffers_of(norm).values()):
        return 'tracks running statistics that are None'
    return None


def tied_weights(model: nn.Module) -> Dict[nn.Module, str]:
    """Find the modules whose ``weight`` is another module's parameter too. A changed copy would untie them."""
    owners: Dict[nn.Parameter, List[nn.Module]] = {}
    names = {}
    for name, module in model.named_modules():
        names[module] = name
        for parameter in {p for p in parameters_of(module).values() if p is not None}:
            owners.setdefault(parameter, []).append(module)
    shared = {m: modules for p, modules in owners.items() for m in modules
              if len(modules) > 1 and parameters_of(m).get('weight') is p}
    return {m: f'shares its weight with {next(names[o] for o in modules if o is not m)}'
            for m, modules in shared.items()}
