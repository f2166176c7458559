"""The variants to compare: BatchNorm, two common channel gates on top of it, IEBN as its formula, and our IEBN."""
from typing import Any, Callable, Dict, List, Optional, Sequence

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from iebn_zoo.conversion.folding import fold_gates
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.ops import reference
from iebn_zoo.weights.create import create_model


class NaiveIEBatchNorm2d(IEBatchNorm2d):
    """IEBatchNorm2d as its formula is written, one op after the other, gradients by autograd.

    It shows the cost of a straightforward implementation: each op reads and writes the whole tensor, and autograd saves
    most of what they write.
    """

    weight: Optional[Tensor]
    bias: Optional[Tensor]

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        assert bn.num_batches_tracked is not None and bn.momentum is not None
        if bn.training:
            bn.num_batches_tracked.add_(1)  # nn.BatchNorm2d pays for this too
        return reference.ie_batch_norm(
            x, bn.running_mean, bn.running_var, self.weight, self.bias, self.gate_weight, self.gate_bias,
            training=bn.training, momentum=bn.momentum, eps=bn.eps)


LAYERS: Dict[str, Callable[[int], nn.Module]] = {
    'bn': nn.BatchNorm2d,
    'naive': NaiveIEBatchNorm2d,
    'se': lambda channels: nn.Sequential(nn.BatchNorm2d(channels), SEModule(channels)),
    'eca': lambda channels: nn.Sequential(nn.BatchNorm2d(channels), EcaModule(channels)),
    'iebn': IEBatchNorm2d,
    'bn_relu': lambda channels: nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
    'iebn_relu': IEBatchNormAct2d,
}
MODELS = ('bn', 'naive', 'se', 'eca', 'iebn', 'folded')
VARIANTS = (*LAYERS, 'folded')


def baseline(variant: str) -> str:
    """Return the variant that a ratio divides by: ``bn``, or ``bn_relu`` for a variant with a ReLU."""
    return 'bn_relu' if variant.endswith('_relu') else 'bn'


def is_gated(variant: str) -> bool:
    """Tell whether a variant reads its input once more for a gate."""
    return not variant.startswith('bn') and variant != 'folded'


def with_baselines(variants: Sequence[str]) -> List[str]:
    """Return ``variants`` in the order of ``VARIANTS``, each with its baseline."""
    wanted = {*variants, *map(baseline, variants)}
    return [v for v in VARIANTS if v in wanted]


def base_names() -> List[str]:
    """Return the names that ``make_model`` takes: those of IEBN models without ``iebn_``."""
    return [name.removeprefix('iebn_') for name in timm.list_models('iebn_*')]


def is_cifar(name: str) -> bool:
    """Tell whether a base name is of the family for 32 px images."""
    return name.endswith('_cifar')


def make_model(variant: str, name: str) -> nn.Module:
    """Make a network in one of ``MODELS``.

    Args:
        variant: ``bn`` is timm's own model, or ours with BatchNorm for a CIFAR network; ``se`` and ``eca`` add the
            module to each residual branch of it; ``folded`` is what ``fold_gates`` makes of the IEBN network.
        name: One of ``base_names()``.
    """
    if variant == 'naive':
        return _with_naive_norms(create_model(f'iebn_{name}', fuse_act=False))
    if variant == 'folded':
        return _folded(create_model(f'iebn_{name}'))
    if variant == 'iebn':
        return create_model(f'iebn_{name}')
    if not is_cifar(name):
        attention: Dict[str, Any] = {} if variant == 'bn' else dict(block_args=dict(attn_layer=variant))
        return create_model(name, **attention)
    if variant == 'eca':
        return create_model(f'bn_{name}', attn_layer='eca')
    return create_model(f'{variant}_{name}')


def _with_naive_norms(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is IEBatchNorm2d:
                naive = NaiveIEBatchNorm2d(child.num_features, child.bn.eps, child.bn.momentum, child.affine)
                naive.load_state_dict(child.state_dict())
                parent.register_module(name, naive)
    return model


def _folded(model: nn.Module) -> nn.Module:
    # with gates that depend on the image, as after training; folding them is not timed
    for norm in model.modules():
        if isinstance(norm, IEBatchNorm2d):
            nn.init.normal_(norm.gate_weight)
    return fold_gates(model, torch.randn(2, *resolve_model_data_config(model)['input_size']))[0]
