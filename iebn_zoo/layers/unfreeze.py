"""unfreeze_batch_norm_2d: the way back from timm's freeze_batch_norm_2d for networks with IEBN layers."""
from timm.layers import norm_act
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from iebn_zoo.layers.iebn import IEBatchNorm2d
from iebn_zoo.layers.statistics import own_weight_and_bias
from iebn_zoo.util.errors import UsageError


def unfreeze_batch_norm_2d(module: nn.Module) -> nn.Module:
    """Undo timm's ``freeze_batch_norm_2d``: each IEBN layer has its child without weight and bias of its own again.

    Statistics, eps, momentum, batch count and the keys of the state dict are those of before. timm's own
    ``unfreeze_batch_norm_2d`` gives the child of an IEBN layer a weight and a bias of its own; where that has already
    happened, and they are still 1 and 0, this function removes them. It leaves all other norms to timm's function, and
    then gives them the mode, train or eval, of the module they stand in. After ``timm.utils.freeze``,
    ``timm.utils.unfreeze(model, include_bn_running_stats=False)`` sets ``requires_grad`` of the parameters again.

    Args:
        module: Network, changed in place.

    Returns:
        ``module``, or what timm makes of it where it is a frozen norm itself.

    Raises:
        UsageError: The weight or the bias of a child has been trained. Nothing is changed then.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, IEBatchNorm2d)}
    for name, layer in layers.items():
        _check_child(f'{name}.bn' if name else 'bn', layer.bn)
    for layer in layers.values():
        _restore_child(layer)
    known = set(module.modules())
    module = norm_act.unfreeze_batch_norm_2d(module)
    for parent in module.modules():
        for child in parent.children():
            if child not in known:
                child.train(parent.training)
    return module


def _check_child(name: str, child: nn.Module) -> None:
    weight, bias = own_weight_and_bias(child)
    if weight is not None and bias is not None and not ((weight == 1).all() and (bias == 0).all()):
        raise UsageError(
            f'{name} has a weight of {weight.min():g} to {weight.max():g} and a bias of {bias.min():g} to '
            f'{bias.max():g}, which a plain BatchNorm2d(affine=False) cannot hold: expected 1 and 0.\n'
            "They were trained after timm's unfreeze_batch_norm_2d; the layer applies them, so keep it as it is, or "
            'unfreeze with iebn_zoo.unfreeze_batch_norm_2d before you train.')


def _restore_child(layer: IEBatchNorm2d) -> None:
    old = layer.bn
    if isinstance(old, FrozenBatchNorm2d):
        statistics = {name: getattr(old, name) for name in ('running_mean', 'running_var')}
        child = nn.BatchNorm2d(  # add_module makes it the layer's
            layer.num_features, old.eps, affine=False, device=statistics['running_mean'].device)
        for name, value in statistics.items():
            child.register_buffer(name, value)
        layer.add_module('bn', child.train(layer.training))
    elif own_weight_and_bias(old)[0] is not None:
        old.register_parameter('weight', None)
        old.register_parameter('bias', None)
        old.affine = False
        old.train(old.training and layer.training)  # timm made it for training, even in a network in eval mode
        layer.add_module('bn', old)  # now that it has none of its own, it shows the layer's
