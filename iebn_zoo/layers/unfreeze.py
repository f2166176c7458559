"""unfreeze_batch_norm_2d: the way back from timm's freeze_batch_norm_2d for networks with IEBN layers."""
import timm.layers
from timm.layers.norm_act import FrozenBatchNorm2d
from torch import nn

from iebn_zoo.layers.iebn import IEBatchNorm2d
from iebn_zoo.util.errors import UsageError


def unfreeze_batch_norm_2d(module: nn.Module) -> nn.Module:
    """Undo timm's ``freeze_batch_norm_2d``: each IEBN layer has its plain ``nn.BatchNorm2d(affine=False)`` again.

    Statistics, eps, momentum, batch count and the keys of the state dict are those of before. timm's own
    ``unfreeze_batch_norm_2d`` gives the child of an IEBN layer a weight and a bias of its own; where that has already
    happened, and they are still 1 and 0, they are removed. All other norms are left to timm's function, and then take
    the mode, train or eval, of the module they stand in. After ``timm.utils.freeze``, ``requires_grad`` of the
    parameters is undone by ``timm.utils.unfreeze(model, include_bn_running_stats=False)``.

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
    module = timm.layers.unfreeze_batch_norm_2d(module)
    for parent in module.modules():
        for child in parent.children():
            if child not in known:
                child.train(parent.training)
    return module


def _check_child(name: str, child: nn.Module) -> None:
    weight, bias = getattr(child, 'weight', None), getattr(child, 'bias', None)
    if weight is not None and not ((weight == 1).all() and (bias == 0).all()):
        raise UsageError(
            f'{name} has a weight of {weight.min():g} to {weight.max():g} and a bias of {bias.min():g} to '
            f'{bias.max():g}, which a plain BatchNorm2d(affine=False) cannot hold: expected 1 and 0.\n'
            "They were trained after timm's unfreeze_batch_norm_2d; the layer applies them, so keep it as it is, or "
            'unfreeze with iebn_zoo.unfreeze_batch_norm_2d before you train.')


def _restore_child(layer: IEBatchNorm2d) -> None:
    old = layer.bn
    if isinstance(old, FrozenBatchNorm2d):
        child = nn.BatchNorm2d(layer.num_features, old.eps, affine=False, device=old.running_mean.device)
        child.running_mean, child.running_var = old.running_mean, old.running_var
        layer.add_module('bn', child.train(layer.training))
    elif getattr(old, 'weight', None) is not None:
        old.weight = old.bias = None
        old.affine = False
        old.train(old.training and layer.training)  # timm made it for training, even in a network in eval mode
