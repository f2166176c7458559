"""iebn_norm_act: what timm's families take as ``norm_layer`` where they want norm and activation in one layer."""
from typing import Any, Optional

from iebn_zoo._compat import wants_activation
from iebn_zoo.layers.iebn_act import IEBatchNormAct2d
from iebn_zoo.util.errors import UsageError

_NOT_GIVEN = object()


@wants_activation
def iebn_norm_act(
        num_features: int,
        eps: float = 1e-5,
        momentum: Optional[float] = 0.1,
        act_layer: Any = _NOT_GIVEN,
        apply_act: bool = True,
        **kwargs: Any,
) -> IEBatchNormAct2d:
    """Make an IEBatchNormAct2d for a network of timm's: ``timm.create_model('densenet121', norm_layer=iebn_norm_act)``.

    timm's ``get_norm_act_layer`` takes a function as the maker of a layer, and tells this one the activation of the
    network. ``functools.partial(iebn_norm_act, eps=1e-3, start='bn')`` sets arguments of every layer.

    Args:
        num_features: Channels C.
        eps: As IEBatchNormAct2d, and so is momentum.
        act_layer: Activation class or timm's name of one; None for no activation. It has no default, because a network
            whose activation got lost would compute something else without an error.
        apply_act: False leaves the activation out; ``act_layer`` is not needed then.
        **kwargs: Further arguments of IEBatchNormAct2d.

    Raises:
        UsageError: Nobody gave ``act_layer``: the network has activations of its own, as a ResNet does.
        ValueError: As IEBatchNormAct2d.
    """
    if not apply_act or act_layer is None:
        return IEBatchNormAct2d(num_features, eps, momentum, apply_act=False, **kwargs)
    if act_layer is _NOT_GIVEN:
        raise UsageError(
            f'iebn_norm_act({num_features}) was not given the activation, act_layer.\n'
            f'A network with activations of its own, such as ResNet, takes norm_layer=iebn_zoo.IEBatchNorm2d.\n'
            f"Elsewhere give the network's: functools.partial(iebn_zoo.iebn_norm_act, act_layer='relu').")
    return IEBatchNormAct2d(num_features, eps, momentum, act_layer=act_layer, **kwargs)
