"""All IEBN layers of a network as BatchNorm layers, with each activation back at the place it had in the BN network."""
import re
from functools import partial
from typing import Dict, Mapping, Optional, Sequence, Set, Tuple

from timm.layers.norm_act import BatchNormAct2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.fx import GraphModule

from iebn_zoo._compat import children_of, hooks_of, move_hooks
from iebn_zoo.conversion.folding.layer import to_batch_norm
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.util.errors import UsageError

_OWN_BLOCKS = 'iebn_zoo.models.'


def replace_by_batch_norm(model: nn.Module, gates: Mapping[str, Tensor]) -> nn.Module:
    """Replace every IEBN layer by the BatchNorm layer that applies a given gate to every instance.

    IEBatchNorm2d becomes BatchNorm2d. IEBatchNormAct2d becomes BatchNorm2d and gives its activation back to the
    identity that stands in the activation's place (timm's ResNets, the zoo's networks, nn.Sequential); elsewhere it
    becomes timm's BatchNormAct2d. Names in the state dict are those of the BN network either way. A layer that stands
    at several places becomes one norm, which keeps the activation unless each place has such an identity.

    A block of the user's own may call its IEBatchNormAct2d with a shortcut to add. A BatchNorm does not take one: such
    a block raises a TypeError when it is first run afterwards.

    Args:
        model: Changed in place, unless it is an IEBN layer itself.
        gates: (C,) for each IEBN layer, by its name in ``model.named_modules()``.

    Returns:
        ``model``, or the layer that stands for it.

    Raises:
        KeyError: ``gates`` lacks a layer.
        UsageError: A layer cannot be replaced (see ``to_batch_norm``), a block's activation has no place, or an FX
            graph has a layer add a shortcut. ``model`` is then unchanged.
    """
    layers = {m: gates[name] for name, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}
    if isinstance(model, IEBatchNorm2d):
        return _with_activation(model, layers[model])
    check_graphs(model)
    found = [(parent, name, layer, _place_of_activation(parent, name, layer))
             for parent in model.modules() if parent not in layers
             for name, layer in children_of(parent).items() if isinstance(layer, IEBatchNorm2d)]
    keep_activation = _layers_that_keep_it(found)
    plan = [(parent, name, layer, None if layer in keep_activation else place) for parent, name, layer, place in found]
    norms: Dict[nn.Module, nn.Module] = {}
    for parent, name, layer, place in plan:
        _check_shortcut(parent, name, layer, place)
        _check_hooks(parent, layer, place)
        if layer not in norms:
            build = _with_activation if place is None else to_batch_norm
            norms[layer] = build(layer, layers[layer])
    for parent, name, layer, place in plan:  # nothing fails from here on
        children = children_of(parent)
        children[name] = norms[layer]
        if place is not None and isinstance(layer, IEBatchNormAct2d):
            children[place] = _with_hooks(layer.act, children[place])
        if hasattr(parent, 'norm_adds_shortcut'):  # a BatchNorm does not take the shortcut: the block adds it
            vars(parent).update(norm_adds_shortcut=False)
    return model


def _layers_that_keep_it(found: Sequence[Tuple[nn.Module, str, IEBatchNorm2d, Optional[str]]]) -> Set[nn.Module]:
    # a layer at several places has one activation: it cannot go where one of them has no place for it, nor can it have
    # the hooks of several identities
    identities: Dict[nn.Module, Set[Optional[nn.Module]]] = {}
    for parent, _, layer, place in found:
        identities.setdefault(layer, set()).add(None if place is None else children_of(parent)[place])
    return {layer for layer, places in identities.items()
            if None in places or len(places) > 1 and any(hooks_of(m) for m in places if m is not None)}


def _with_hooks(module: nn.Module, old: Optional[nn.Module]) -> nn.Module:
    # module has no hooks where old has some; see _check_hooks
    if old is not None and hooks_of(old):
        move_hooks(old, module)
        if getattr(module, 'inplace', False) and any(kind.startswith('backward') for kind in hooks_of(old)):
            vars(module).update(inplace=False)  # torch has no backward hooks on what overwrites its input
    return module


def check_graphs(model: nn.Module) -> None:
    """Raise UsageError if an FX graph within ``model`` has one of its layers add a shortcut."""
    calls = [(graph.get_submodule(str(node.target)), node) for graph in model.modules()
             if isinstance(graph, GraphModule) for node in graph.graph.nodes if node.op == 'call_module']
    for layer, node in calls:
        if isinstance(layer, IEBatchNormAct2d) and len(node.all_input_nodes) > 1:
            raise UsageError(
                f'the graph of {type(model).__name__} has its layer {str(node.target)!r} add a shortcut, which no '
                f'BatchNorm can do.\n'
                f'Convert or fold the network that the graph was made of, then make the graph.')


def _check_shortcut(parent: nn.Module, name: str, layer: IEBatchNorm2d, place: Optional[str]) -> None:
    if getattr(parent, 'norm_adds_shortcut', False) and isinstance(layer, IEBatchNormAct2d) and place is None:
        raise UsageError(
            f'{type(parent).__name__}.{name} computes the activation, but no identity stands where that was.\n'
            f'Build the network with fuse_act=False, or leave the identities in its blocks.')


def _check_hooks(parent: nn.Module, layer: IEBatchNorm2d, place: Optional[str]) -> None:
    identity = None if place is None else children_of(parent)[place]
    if identity is not None and isinstance(layer, IEBatchNormAct2d) and hooks_of(layer.act) and hooks_of(identity):
        raise UsageError(
            f'{type(parent).__name__}.{place} and the activation that returns to its place both have hooks.\n'
            f'Remove those of one of them.')


def shortcut_error(parent: nn.Module, name: str) -> UsageError:
    """Make the error for a block of the user's own that has its norm add the shortcut."""
    return UsageError(
        f'{type(parent).__name__} has its layer {name!r} add a shortcut, which no BatchNorm can do.\n'
        f'Let the block add it and compute the activation behind the sum.')


def _with_activation(layer: IEBatchNorm2d, gate: Tensor) -> nn.Module:
    if not isinstance(layer, IEBatchNormAct2d) or type(layer.act) is type(layer.drop) is nn.Identity:
        return to_batch_norm(layer, gate)
    norm = to_batch_norm(layer, gate, partial(BatchNormAct2d, apply_act=False))
    norm.drop, norm.act = layer.drop, layer.act
    return norm


def _place_of_activation(parent: nn.Module, name: str, layer: nn.Module) -> Optional[str]:
    """Return the name of the child that is an identity because ``layer`` computes the activation, or None."""
    if not isinstance(layer, IEBatchNormAct2d) or type(layer.drop) is not nn.Identity:
        return None
    place = None
    if type(parent) is nn.Sequential:
        names = list(children_of(parent))
        place = next(iter(names[names.index(name) + 1:]), None)
    elif isinstance(parent, (ResNet, BasicBlock, Bottleneck)) or type(parent).__module__.startswith(_OWN_BLOCKS):
        # only in these is it known that forward calls act1 behind bn1, and act behind norm
        place = re.sub('^(bn|norm)', 'act', name)
    return place if place is not None and type(children_of(parent).get(place)) is nn.Identity else None
