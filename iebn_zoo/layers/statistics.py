"""The child ``bn`` of an IEBN layer: a BatchNorm2d that owns the statistics and shows the layer's weight and bias."""
import weakref
from typing import Any, Dict, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from iebn_zoo._compat import children_of, is_scripting, parameters_of
from iebn_zoo.util.errors import UsageError

_LENT = ('weight', 'bias')


class BatchNormStatistics2d(nn.BatchNorm2d):
    """y = (x - mu) / sqrt(var + eps)

    ``nn.BatchNorm2d(affine=False)`` as the child of an IEBN layer; ``adopt`` makes it. ``weight`` and ``bias`` are the
    parameters of the layer, so that a loop over every BatchNorm2d of a network initializes, freezes or reads those. The
    child itself does not apply them and does not own them: ``parameters()`` and ``state_dict()`` of a network have them
    once, under the layer's name. Setting ``weight`` or ``bias`` to a Parameter or to None sets that of the layer.

    A copy or a pickle holds a plain ``nn.BatchNorm2d``. The layer that is copied with it makes it a child again.

    Shape:
        (B, C, H, W) -> (B, C, H, W), same dtype.
    """

    # TorchScript is not to compile the properties, nor to read the parameters in their place
    __jit_unused_properties__ = __jit_ignored_attributes__ = list(_LENT)

    @property
    def weight(self) -> Optional[Tensor]:  # the layer may have got another one since the last time
        """The weight of the layer, (C,); None where it has none."""
        return self._lent('weight')

    @property
    def bias(self) -> Optional[Tensor]:
        """The bias of the layer, (C,); None where it has none."""
        return self._lent('bias')

    def _lent(self, name: str) -> Optional[Tensor]:
        owner = owner_of(self)
        return None if owner is None else getattr(owner, name)

    def register_parameter(self, name: str, param: Optional[nn.Parameter]) -> None:
        """Register a parameter; ``weight`` and ``bias`` with the layer.

        Raises:
            UsageError: It is a weight or a bias, and the layer is gone.
        """
        if name not in _LENT:
            super().register_parameter(name, param)
            return
        owner = owner_of(self)
        if owner is not None:
            owner.register_parameter(name, param)
        elif param is not None:
            raise UsageError(
                f'cannot set {name} of a {type(self).__name__} whose IEBN layer is gone: it has no place for one.\n'
                f'Use nn.BatchNorm2d({self.num_features}) for a norm with a weight.')

    @torch.jit.unused
    def __getstate__(self) -> Dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != '_owner'}

    @torch.jit.unused
    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is BatchNormStatistics2d:
            return nn.BatchNorm2d, (self.num_features, self.eps, self.momentum, False, False), self.__getstate__()
        return super().__reduce_ex__(protocol)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._normalize(input)
        else:  # spelled out: the TorchScript compiler skips only an explicit else
            if isinstance(input, Proxy):
                return _node(self, input)
            return self._normalize(input)

    def _normalize(self, input: Tensor) -> Tensor:
        # nn.BatchNorm2d.forward, which would apply weight and bias
        self._check_input_dim(input)
        momentum = 0.0
        if self.momentum is not None:
            momentum = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        tracked = not self.training or self.track_running_stats
        return F.batch_norm(
            input, self.running_mean if tracked else None, self.running_var if tracked else None, None, None,
            self.training or (self.running_mean is None and self.running_var is None), momentum, self.eps)

    def extra_repr(self) -> str:
        return (f'{self.num_features}, eps={self.eps}, momentum={self.momentum}, '
                f'track_running_stats={self.track_running_stats}')


def _node(module: nn.Module, input: Any) -> Any:
    # one node of the FX graph, which torch.fx makes of torch's own modules only
    return input.tracer.create_proxy('call_module', input.tracer.path_of_module(module), (input,), {})


def call(child: nn.Module, x: Tensor) -> Tensor:
    """Call a child. Under torch.fx the call becomes one node: its hooks run with the graph, and not while FX traces."""
    return _node(child, x) if isinstance(x, Proxy) and isinstance(child, BatchNormStatistics2d) else child(x)


def owner_of(child: nn.Module) -> Optional[nn.Module]:
    """Return the IEBN layer whose weight and bias ``child`` shows, or None."""
    reference = vars(child).get('_owner') if isinstance(child, BatchNormStatistics2d) else None
    return None if reference is None else reference()


def adopt(layer: nn.Module) -> None:
    """Make the child ``bn`` of an IEBN layer show the layer's weight and bias, if it is a BatchNorm2d without its own.

    The child keeps its identity, its statistics and its mode. Any other child (SyncBatchNorm, FrozenBatchNorm2d, a norm
    that a tool has made affine) stays as it is.

    Args:
        layer: With a child ``bn``.
    """
    child = children_of(layer).get('bn')
    if isinstance(child, nn.Module) and is_plain(child):
        child.__class__ = BatchNormStatistics2d
        vars(child)['_owner'] = weakref.ref(layer)  # no cycle: a network that nobody has any more is freed at once


def is_plain(child: nn.Module) -> bool:
    """Whether a child only normalizes, as BatchNorm2d(affine=False) does, so that a layer may read its statistics."""
    kind: Type[Any] = type(child)
    return kind is BatchNormStatistics2d or (
        kind is nn.BatchNorm2d and all(parameters_of(child).get(name) is None for name in _LENT))


def own_weight_and_bias(child: nn.Module) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Return the weight and the bias, (C,), that a child itself applies before the gate; None for each it lacks."""
    if isinstance(child, BatchNormStatistics2d):
        return None, None
    return getattr(child, 'weight', None), getattr(child, 'bias', None)
