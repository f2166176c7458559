"""Checkpoints of the paper's reference code, and of the CIFAR framework it grew from, by the names of the CIFAR models.

The first is github.com/gbup-group/IEBN, the second github.com/bearpaw/pytorch-classification (plain BN).
"""
from importlib import import_module
from typing import Any, Dict, Mapping

from torch import Tensor, nn

from iebn_zoo.models.bn_checkpoint import checkpoint_filter_fn, refuse_bn_state_dict
from iebn_zoo.models.reference_layouts import our_names
from iebn_zoo.util.errors import UsageError

__all__ = ['cifar_checkpoint_filter_fn', 'convert_reference_state_dict', 'refuse_reference_state_dict']

# opening a file is the business of iebn_zoo.weights, which imports this package
_OPENING = ('load_reference_checkpoint', 'reference_weights')
_RENAMES = {'weight_readjust': 'gate_weight', 'bias_readjust': 'gate_bias'}
_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
_REMEDY = 'iebn_zoo.models.load_reference_checkpoint(model, PATH_OR_STATE_DICT)'


def convert_reference_state_dict(state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a reference state dict to ours.

    The prefix ``module.`` (DataParallel) goes, blocks and stages of PreResNet, WRN and ResNeXt get our names,
    ``weight_readjust``/``bias_readjust`` become ``gate_weight``/``gate_bias``, (1, C, 1, 1) parameters of norms become
    (C,), and the statistics of a gated norm move to its child ``bn``. Plain BatchNorm, as in the reference's
    shortcuts, stays as it is, and so does a state dict of ours.

    Args:
        state_dict: As ``torch.load`` gave it, without the outer ``{'state_dict': ...}``.

    Returns:
        A new dict for ``load_state_dict`` of a model made by ``timm.create_model('iebn_..._cifar')``; of plain norms
        alone: for ``bn_..._cifar``.

    Raises:
        IEBNZooError: Two keys mean the same tensor.
    """
    names = our_names(state_dict)
    gated = {name.rpartition('.')[0] for name in names.values() if name.endswith('.weight_readjust')}
    out = {}
    for key, value in state_dict.items():
        owner, dot, name = names[key].rpartition('.')
        if owner in gated:
            if name in _STATISTICS:
                name = f'bn.{name}'
            elif isinstance(value, Tensor):
                value = value.reshape(-1)
        out[f'{owner}{dot}{_RENAMES.get(name, name)}'] = value
    return out


def cifar_checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """Rename reference layouts, then convert BN to IEBN: timm's ``pretrained_filter_fn`` of the CIFAR models.

    Args:
        state_dict: Of ours, of the reference or of the CIFAR framework; of BN or of IEBN norms. It is not changed.
        model: CIFAR network that is to load it.

    Returns:
        A new dict.

    Raises:
        UsageError: As ``bn_checkpoint.checkpoint_filter_fn``.
    """
    return checkpoint_filter_fn(convert_reference_state_dict(state_dict), model)


def refuse_reference_state_dict(state_dict: Mapping[str, Any], model: nn.Module, prefix: str = '') -> None:
    """Raise UsageError, a ValueError, if ``load_reference_checkpoint`` should load ``state_dict`` into ``model``.

    That is so if it has other names than ours, or BN norms where ``model`` has IEBN ones. ``load_state_dict`` does not
    convert. With ``strict=False`` it would leave those tensors out and say nothing.

    Args:
        state_dict: As ``model`` is to load it.
        model: CIFAR network.
        prefix: Of the keys of ``model`` in ``state_dict``.
    """
    inner = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    own = model.state_dict().keys()
    if inner.keys() <= own:
        return
    for key, name in our_names(inner).items():
        owner, _, last = name.rpartition('.')
        ours = f'{owner}.{_RENAMES.get(last, last)}'
        if key not in own and ours in own:
            raise UsageError(
                f'cannot load the state dict of other code into {type(model).__name__}: it has {prefix}{key}, here '
                f'that is {prefix}{ours}.\n'
                f'What converts it: {_REMEDY} in the place of checkpoint_path=PATH and of load_state_dict;\n'
                f"in timm's train.py --pretrained --pretrained-path PATH in the place of --initial-checkpoint PATH.")
    refuse_bn_state_dict(state_dict, model, prefix, _REMEDY)


def __getattr__(name: str) -> Any:
    if name not in _OPENING:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module('iebn_zoo.weights.fit'), name)
