"""IEBatchNormAct2d: IEBN and the activation behind it in one layer, as timm's BatchNormAct2d is for BN."""
from typing import Any, Dict, Optional

import torch
from timm.layers.create_act import create_act_layer
from torch import Tensor, nn

from iebn_zoo._compat import children_of, is_hooked, is_scripting, parameters_of, register_notrace_module
from iebn_zoo.layers.iebn import IEBatchNorm2d, check_input


@register_notrace_module
class IEBatchNormAct2d(IEBatchNorm2d):
    """y = act(weight * sigmoid(gate_weight * mean_hw(x) + gate_bias) * (x - mu) / sqrt(var + eps) + bias [+ residual])

    IEBatchNorm2d (arXiv 1908.04008, section 3) with timm's BatchNormAct2d's arguments and children ``drop`` and
    ``act``. The operator itself computes a ReLU without a drop layer; anything else follows it. Parameters, buffers and
    their names are those of IEBatchNorm2d.

    Args:
        num_features: Channels C.
        eps: As IEBatchNorm2d, and so are momentum, affine and track_running_stats.
        apply_act: False leaves the activation out.
        act_layer: Activation class or timm's name of one.
        act_kwargs: Arguments of the activation.
        inplace: Let an activation that is not fused overwrite the normalized tensor.
        drop_layer: Class of a layer between norm and activation.
        device: As IEBatchNorm2d, and so are dtype, start and freeze_gate_weight.

    Shape:
        (B, C, H, W) and, where the layer ends a residual block, the shortcut (B, C, H, W) -> (B, C, H, W), same dtype.
        ``overwrite=True`` says that nobody else needs the first input. Inference may then write over it.

    Raises:
        ValueError: As IEBatchNorm2d.
    """

    def __init__(
            self,
            num_features: int,
            eps: float = 1e-5,
            momentum: Optional[float] = 0.1,
            affine: bool = True,
            track_running_stats: bool = True,
            apply_act: bool = True,
            act_layer: Any = nn.ReLU,
            act_kwargs: Optional[Dict[str, Any]] = None,
            inplace: bool = True,
            drop_layer: Any = None,
            device: Any = None,
            dtype: Optional[torch.dtype] = None,
            start: Optional[str] = None,
            freeze_gate_weight: bool = False,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, start, freeze_gate_weight)
        self.drop = drop_layer() if drop_layer is not None else nn.Identity()
        act = create_act_layer(act_layer, **{'inplace': inplace, **(act_kwargs or {})}) if apply_act else None
        self.act = nn.Identity() if act is None else act

    @classmethod
    def from_norm(cls, norm: IEBatchNorm2d, act: nn.Module) -> 'IEBatchNormAct2d':
        """Make the layer that computes act(norm(x)). It shares the parameters and the statistics of ``norm``."""
        layer = cls(norm.num_features, affine=norm.affine, apply_act=False, device='meta', start=norm.start)
        for name, parameter in parameters_of(norm).items():  # None among them
            layer.register_parameter(name, parameter)
        layer.bn, layer.act, layer.training = norm.bn, act, norm.training
        return layer

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, overwrite: bool = False) -> Tensor:
        if is_scripting():
            check_input(x, self.num_features, self._normalizes_by_batch())
            return self._activate(self._forward_composed(x), residual)
        else:
            if self._is_composed(x):
                return self._activate(self._forward_composed(x), residual)
            if self._fuses_act():
                return self._forward_operator(x, relu=True, residual=residual, overwrite=overwrite)
            return self._activate(self._forward_operator(x, relu=False), residual)

    def _activate(self, y: Tensor, residual: Optional[Tensor]) -> Tensor:
        y = self.drop(y)
        if residual is not None:
            y = y + residual
        return self.act(y)

    @torch.jit.unused
    def _fuses_act(self) -> bool:
        # a child that someone has replaced or hooked must be called
        children: Any = children_of(self)
        act, drop = children['act'], children['drop']
        return type(act) is nn.ReLU and type(drop) is nn.Identity and not (is_hooked(act) or is_hooked(drop))
