"""What keeps a norm from becoming an IEBN layer: each function returns a reason, or None."""
from typing import Any, Dict, List, Optional, Tuple

from timm.layers.norm_act import BatchNormAct2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from iebn_zoo._compat import BatchNormBase, buffers_of, has_gradient_hooks, parameters_of
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.iebn import check_numbers

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


def odd_numbers(norm: Any) -> Optional[str]:
    """Say so if an IEBN layer takes no such numbers as the norm has."""
    try:
        check_numbers(norm.num_features, norm.eps, norm.momentum)
    except ValueError as e:
        return f'cannot be gated: its {e}'
    return None


def hooked_weight(norm: nn.Module) -> Optional[str]:
    """Say so if something is to be called with the gradient of the weight: the new weight would not have it."""
    weight = parameters_of(norm).get('weight')
    return 'has a hook on its weight: remove it first' if weight is not None and has_gradient_hooks(weight) else None


def tied(model: nn.Module, parameter: str = 'weight') -> Dict[nn.Module, str]:
    """Find the modules of which a parameter is registered in a second place too. A changed copy would untie it.

    Args:
        model: The network.
        parameter: Name that the parameter has in its module.

    Returns:
        For each such module a reason that names the other place.
    """
    places: Dict[nn.Parameter, List[Tuple[nn.Module, str]]] = {}
    found: Dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        for key, value in parameters_of(module).items():
            if value is not None:
                places.setdefault(value, []).append((module, f'{name}.{key}' if name else key))
    for shared in places.values():
        for module, place in shared:
            other = next((p for _, p in shared if p != place), None)
            if other is not None and place.rpartition('.')[2] == parameter:
                found[module] = f'shares its {parameter} with {other}'
    return found
