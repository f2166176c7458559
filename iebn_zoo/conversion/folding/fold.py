"""fold_gates: an IEBN network becomes the BN network that comes nearest to it."""
import copy
from typing import Mapping, Optional, Tuple

import torch
from torch import nn

from iebn_zoo.conversion.folding.agreement import measure_agreement
from iebn_zoo.conversion.folding.base import name_base_models
from iebn_zoo.conversion.folding.inference import Images
from iebn_zoo.conversion.folding.obstacles import check_layer, check_model, check_ties
from iebn_zoo.conversion.folding.replace import check_graphs, replace_by_batch_norm, shortcut_error
from iebn_zoo.conversion.folding.report import FoldReport, LayerGates
from iebn_zoo.conversion.folding.statistics import GateMoments, collect_gates
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.util.errors import UsageError


@torch.inference_mode(False)  # what is made may be trained
def fold_gates(
        model: nn.Module,
        images: Images,
        held_out: Optional[Images] = None,
) -> Tuple[nn.Module, FoldReport]:
    """Replace each gate by its mean over calibration images and merge it into BatchNorm.

    weight[c] becomes weight[c] * mean_b g[b,c]; bias and statistics stay. The result is a plain BN network. For the
    zoo's ResNets its state dict is that of timm's ``resnet18`` etc. (``bn_..._cifar`` for the CIFAR networks), and
    ``timm.models.save_for_hf`` saves it under that name. It computes the same function where no gate depends on the
    instance (gate_weight = 0), and an approximation elsewhere: the report says how good it is.

    One pass of the original network collects all gates. In the folded one a layer's input differs slightly from the one
    that its gates were averaged over, because the gates before it are constant; the fold does not correct for this.

    Args:
        model: Network with IEBatchNorm2d layers (IEBatchNormAct2d too), not wrapped for parallel training. The function
            runs it in eval mode and leaves it as it was, training flags and buffers included.
        images: Preprocessed as for evaluation: a tensor (B, C, H, W), which is run as one batch, or an iterable, such
            as a DataLoader, of such batches or of tuples that begin with one. Every image counts the same.
        held_out: Other images, in the same forms, on which to compare the two networks, and also their accuracy where
            the second item of each tuple is class indices (B,). None to leave that out.

    Returns:
        The folded network, a new one, in eval mode, and the report.

    Raises:
        UsageError: No IEBN layer in the model, images that are empty or do not fit, or a layer that cannot become a BN:
            a subclass, one with hooks, or one that shares its weight. Parametrized layers are folded as they are now.
        IEBNZooError: Gates or logits that are not finite, or a layer that does not run on the images.
    """
    check_model(model)
    if held_out is not None and held_out is images:
        raise UsageError(
            'held_out is the very object given as images.\nGive images that the gates are not averaged over.')
    for name, layer in model.named_modules():
        if isinstance(layer, IEBatchNorm2d):
            check_layer(name or 'the model', layer, exact=False)
    check_ties(model)
    check_graphs(model)
    moments, count = collect_gates(model, images)
    _check_residuals(model, moments)
    folded = replace_by_batch_norm(copy.deepcopy(model), {name: m.mean for name, m in moments.items()}).eval()
    name_base_models(folded)
    agreement = None if held_out is None else measure_agreement(model, folded, held_out)
    layers = tuple(LayerGates.from_moments(name, m) for name, m in moments.items())
    return folded, FoldReport(count, layers, agreement)


def _check_residuals(model: nn.Module, moments: Mapping[str, GateMoments]) -> None:
    for name, layer in moments.items():
        parent = model.get_submodule(name.rpartition('.')[0])
        if layer.takes_residual and not hasattr(parent, 'norm_adds_shortcut'):
            raise shortcut_error(parent, name)
