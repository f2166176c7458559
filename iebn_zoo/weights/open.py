"""Opens a network with its weights, by a registered name, a directory, the Hub or a file of weights."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Union

import timm
from torch import Tensor, nn

from iebn_zoo._compat import model_args
from iebn_zoo.models import convert_reference_state_dict
from iebn_zoo.models.bn_checkpoint import checkpoint_filter_fn
from iebn_zoo.models.pretrained import shipped_directory, shipped_label_names
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.places import shown_name
from iebn_zoo.weights.arguments import check_arguments
from iebn_zoo.weights.config import license_id, read_config
from iebn_zoo.weights.create import LOCAL_DIR, build, check_name, check_size, create_model, split_name
from iebn_zoo.weights.file import WeightsFile, read_weights_file
from iebn_zoo.weights.fit import BN, IEBN, load_weights, norms_in, norms_of, weights_for, without_other_head
from iebn_zoo.weights.repository import CONFIG, Repository, create_from_repository, find_repository
from iebn_zoo.weights.settings import SIZES, cfg_of, check_label_count, label_names_in, model_settings, trained_settings
from iebn_zoo.weights.tensors import check_tensors

# names that timm gives to weights that have their config.json beside them
_OF_A_DIRECTORY = ('model.safetensors', 'pytorch_model.bin')


@dataclass(frozen=True)
class Network:
    """A network with weights, and what is known about it.

    Attributes:
        model: The network, float32, on the CPU, in eval mode.
        arch: Registered name, without a tag.
        model_args: Arguments that rebuild ``model`` from ``arch``.
        data_config: Input size and preprocessing.
        label_names: Names of the classes in order, or None.
        shown: Its name in messages, without places on this machine.
        description: One line that says what was loaded.
        base_model: Hub id of the weights, or None.
        license: Hub id of their license, or None.
        run: Directory of the training run, or None.
        checkpoint: Everything in a checkpoint of our training, or {}.
        carried: Directory of the weights in this package, or None for any other weights.
        repository: The directory or repository, with its config.json, that the weights came from, or None.
    """

    model: nn.Module
    arch: str
    model_args: Dict[str, Any]
    data_config: Dict[str, Any]
    label_names: Optional[List[str]]
    shown: str
    description: str
    base_model: Optional[str] = None
    license: Optional[str] = None
    run: Optional[Path] = None
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    carried: Optional[Path] = None
    repository: Optional[Repository] = None

    @property
    def is_iebn(self) -> bool:
        return norms_in(self.model) == IEBN


def open_network(
        name: Optional[str] = None,
        checkpoint: Union[str, Path, None] = None,
        *,
        use_ema: bool = False,
        model_args: Optional[Mapping[str, Any]] = None,
        flags: Optional[Mapping[str, Any]] = None,
        convert: bool = True,
) -> Network:
    """Open a network with weights, to be run as it was trained.

    Args:
        name: Registered name with weights, ``local-dir:DIR`` or ``hf-hub:ID``; with ``checkpoint`` a registered name,
            which may be left out where the file tells it.
        checkpoint: A file of weights of any kind.
        use_ema: Take the EMA weights of the checkpoint.
        model_args: Further arguments of the architecture of ``checkpoint``, from the user.
        flags: The user's ``num_classes``, ``in_chans`` and input settings; None counts as not set.
        convert: Allow the weights of BN norms in an IEBN network, converted.

    Raises:
        UsageError: There is no such model or file, flags contradict it, or the weights are of another kind of network.
        IEBNZooError: Weights, arguments or settings are impossible, or do not belong together.
    """
    flags = flags or {}
    if use_ema and name and not checkpoint:
        raise UsageError(f'--use-ema is for --checkpoint of a training run: {name} has one set of weights.\n'
                         f'Leave it out.')
    if checkpoint:
        network = _from_file(name, Path(checkpoint), use_ema, model_args or {}, flags, convert)
    elif name:
        network = _from_name(name, flags)
    else:
        raise UsageError('no --model given.\nExpected a registered name, local-dir:DIR or hf-hub:ID, or --checkpoint.')
    classes = getattr(network.model, 'num_classes', 0)
    if not classes:
        raise UsageError(f'{network.shown} has no classifier (num_classes is 0).\nExpected a network with logits.')
    if flags.get('num_classes') not in (None, classes):
        raise UsageError(f"--num-classes is {flags['num_classes']}, but {network.shown} has {classes}.\n"
                         f'The classifier comes with the weights: leave the flag out.')
    check_label_count(network.label_names, classes, network.shown)
    check_tensors(network.model.state_dict(), network.shown)
    return network


class Start(NamedTuple):
    """A network to be trained.

    Attributes:
        model: The network.
        description: One line that says what it starts from.
        checkpoint: Everything in the checkpoint of our training that it starts from, or {}.
        label_names: Names of the classes of these weights in order, or None. The network may have a new classifier.
    """

    model: nn.Module
    description: str
    checkpoint: Mapping[str, Any] = {}
    label_names: Optional[List[str]] = None


def start_network(
        name: str,
        pretrained: bool,
        model_args: Mapping[str, Any],
        initial_checkpoint: Union[str, Path, None] = None,
) -> Start:
    """Create a network to be trained.

    Args:
        name: Registered name, ``local-dir:DIR`` or ``hf-hub:ID``.
        pretrained: Start from the weights of the name.
        model_args: Arguments of the architecture; the classifier is new if they set another number of classes.
        initial_checkpoint: Start from this file of weights.

    Raises:
        UsageError: There is no such model or file, or arguments contradict it.
        IEBNZooError: Weights, arguments or settings are impossible, or do not belong together.
    """
    if pretrained and initial_checkpoint:
        raise UsageError(f'--pretrained has weights of its own, and --initial-checkpoint {initial_checkpoint} gives '
                         f"others.\nGive one of them; --no-pretrained undoes a recipe's.")
    weights = repository = None
    if pretrained and split_name(name)[0]:
        repository = find_repository(name, headless='num_classes' in model_args)
        weights = repository.weights()
        model = create_from_repository(name, True, model_args, repository, weights)
    else:
        source, place = split_name(name)  # create_model has arguments of its own, which these must not set
        check_arguments('' if source else check_name(place), model_args, '--model-kwargs', own=True)
        model = create_model(name, pretrained, **model_args)
    if initial_checkpoint:
        file = read_weights_file(initial_checkpoint)
        given = weights_for(model, file.state_dict)
        load_weights(model, without_other_head(model, given), str(initial_checkpoint))
        said = f'{shown_name(initial_checkpoint)} ({file.kind}; {_adapted(model, given, file)})'
        return Start(model, f'started from {said}', file.content, file.label_names)
    if not pretrained:
        return Start(model, 'started from random weights')
    check_tensors(model.state_dict(), name)
    if weights is not None and repository is not None:
        given = weights_for(model, weights.state_dict)
        place = repository.name.partition(':')[2] if repository.hub_id else shown_name(name)
        names = label_names_in(cfg_of(model).get('label_names'), repository.name)
        return Start(model, f'started from {place} ({_adapted(model, given, weights)})', label_names=names)
    return Start(model, f'started from {_tag(model, name)}', label_names=shipped_label_names(cfg_of(model)))


def architecture_args(model: nn.Module, asked: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the arguments that rebuild ``model`` from its registered name: ``asked`` over those of its config.json.

    They always name the start of an IEBN network, because a later version may have another default.
    """
    recorded = model_args(model) or {}
    plain = {k: v for k, v in recorded.items() if v is None or isinstance(v, (bool, int, float, str, list, dict))}
    # a config.json names the number of classes outside of its model_args
    classes = {'num_classes': model.num_classes} if isinstance(getattr(model, 'num_classes', None), int) else {}
    # a tag may be of another number of channels than its architecture
    chans = {'in_chans': model.in_chans} if getattr(model, 'in_chans', 3) != 3 else {}
    start = {'start': model.start} if hasattr(model, 'start') and norms_in(model) == IEBN else {}
    return {**classes, **chans, **start, **plain, **asked}


def _from_name(name: str, flags: Mapping[str, Any]) -> Network:
    if split_name(name)[0]:
        repository = find_repository(name)
        return _from_repository(repository, repository.weights(), flags)
    model = create_model(name, True, **_asked(flags)).float().eval()
    cfg = cfg_of(model)
    base = cfg.get('hf_hub_id')
    converted = norms_in(model) == IEBN and str(cfg.get('tag') or '').startswith('bn_')
    return Network(
        model, cfg['architecture'], architecture_args(model, {}), model_settings(model, flags),
        shipped_label_names(cfg), name,
        _loaded(model, shown_name(base or name), converted), base.split('@')[0] if base else None,
        license_id(cfg.get('license')), carried=shipped_directory(cfg))


def _from_repository(repository: Repository, weights: WeightsFile, flags: Mapping[str, Any],
                     shown: Optional[str] = None) -> Network:
    model = create_from_repository(repository.name, True, _asked(flags), repository, weights).float().eval()
    cfg = cfg_of(model)
    place = repository.name.partition(':')[2] if repository.hub_id else None
    converted = norms_in(model) == IEBN and norms_of(weights.state_dict) == BN
    shown = shown or shown_name(repository.name)
    return Network(
        model, cfg['architecture'], architecture_args(model, {}), model_settings(model, flags),
        label_names_in(cfg.get('label_names'), repository.name), shown, _loaded(model, place or shown, converted),
        repository.hub_id, license_id(cfg.get('license')), repository=repository)


def _asked(flags: Mapping[str, Any]) -> Dict[str, Any]:
    return {'in_chans': flags['in_chans']} if flags.get('in_chans') is not None else {}


def _loaded(model: nn.Module, place: str, converted: bool, *more: str) -> str:
    said = [*more, f'{BN}, converted' if converted else norms_in(model), f'{getattr(model, "num_classes", 0)} classes']
    return f'loaded {cfg_of(model)["architecture"]} from {place} ({"; ".join(filter(None, said))})'


def _from_file(name: Optional[str], path: Path, use_ema: bool, user_args: Mapping[str, Any],
               flags: Mapping[str, Any], convert: bool) -> Network:
    if name and ':' in name:
        raise UsageError(f'--model {name} has weights of its own, and --checkpoint gives others.\n'
                         f'Name the architecture alone, such as --model resnet50.')
    file = read_weights_file(path, use_ema)
    repository = _directory_of(path, name, file)
    known = repository.config['architecture'] if repository else file.arch
    named = name or known
    if not named:
        raise UsageError(f'{path} holds weights alone.\nName their architecture with --model.')
    arch = check_name(named)
    if known and arch != known.split('.')[0]:
        raise UsageError(f'{path} is of {known}, not {named}.\nLeave out --model, or name that one.')
    check_arguments(arch, user_args, '--model-kwargs', own=True)
    if repository:
        if user_args:
            raise UsageError(f'--model-kwargs says how to build the network of bare weights, and {path} has its '
                             f'{CONFIG} beside it.\nLeave it out.')
        return _from_repository(repository, file, flags, path.name)
    state = convert_reference_state_dict(file.state_dict) if arch.endswith('_cifar') else file.state_dict
    check_arguments(arch, file.model_args, f'{path}: model_args')
    arguments = {**_seen_args(arch, state), **file.model_args, **user_args}
    if flags.get('in_chans') not in (None, (chans := arguments.get('in_chans', 3))):
        flag = 'input_size' if flags.get('input_size') else 'in_chans'
        raise UsageError(f"--{flag.replace('_', '-')} is {flags[flag]}, but {path.name} has {chans} channels.\n"
                         f'The first layer comes with the weights: leave the flag out.')
    check_size(arch, arguments, state, str(path))
    model = build(arch, arch, False, arguments).eval()
    norms = norms_of(state)
    _check_kind(model, arch, state, norms, path, convert)
    # old checkpoints lack these counts, which only momentum=None reads
    counts = {k: v for k, v in model.state_dict().items() if k.endswith('num_batches_tracked')}
    given = weights_for(model, state)
    load_weights(model, {**counts, **given} if norms else given, str(path))
    asked = {**_other_settings(file.settings, flags), **{k: v for k, v in flags.items() if v is not None}}
    run = path.parent
    return Network(
        model, cfg_of(model)['architecture'], architecture_args(model, arguments),
        trained_settings(model, asked, file.data_config, str(path)), file.label_names, path.name,
        _loaded(model, path.name, norms == BN and norms_in(model) == IEBN, file.kind, 'EMA weights' if use_ema else ''),
        run=run if file.content and (run / 'args.yaml').is_file() else None, checkpoint=file.content)


def _other_settings(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> Dict[str, Any]:
    # the size of a file, under either name, gives way to that of a flag
    asked = any(flags.get(name) is not None for name in SIZES)
    return {k: v for k, v in settings.items() if not (asked and k in SIZES)}


def _directory_of(path: Path, name: Optional[str], file: WeightsFile) -> Optional[Repository]:
    # only the config.json beside the weights of an export tells their images and classes
    config = path.parent / CONFIG
    if file.arch or path.name not in _OF_A_DIRECTORY or not config.is_file():
        return None
    if name and 'pretrained_cfg' not in read_config(config):
        return None  # another library wrote it, and the user names the architecture
    return find_repository(f'{LOCAL_DIR}:{path.parent}')


def _seen_args(arch: str, state_dict: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Return the arguments that the shapes and names of the weights tell."""
    cfg = timm.get_pretrained_cfg(arch)
    seen: Dict[str, Any] = {}
    for argument, layer, dim in (('num_classes', 'classifier', 0), ('in_chans', 'first_conv', 1)):
        name = getattr(cfg, layer, None)
        weight = state_dict.get(f'{name}.weight') if isinstance(name, str) else None
        if weight is not None and weight.dim() > dim:
            seen[argument] = weight.shape[dim]
    if arch.startswith('iebn_') and any('.downsample.' in k and k.endswith('.gate_weight') for k in state_dict):
        seen['gate_downsample'] = True
    return seen


def _check_kind(model: nn.Module, arch: str, state_dict: Mapping[str, Tensor], norms: Optional[str], path: Path,
                convert: bool) -> None:
    gated = any(k.endswith('.gate_weight') for k in state_dict)
    if norms_in(model) == IEBN:
        if norms == IEBN and not gated:
            raise UsageError(f'{path} has the statistics of IEBN norms and no gates, so it is no whole checkpoint of '
                             f'{arch}, and none of a BN network.\nUse a complete checkpoint.')
        if not gated and not convert:
            raise UsageError(f'{path} has no gates, so it is no checkpoint of {arch}.\n'
                             f'Name the BN architecture that it is of, such as --model resnet50.')
        if gated:
            checkpoint_filter_fn(state_dict, model)  # raises for a checkpoint with only some of the gates
    elif norms == IEBN:
        raise UsageError(f'{path} has gates, so it is no checkpoint of {arch}.\n'
                         f'Name the IEBN architecture that it is of, such as --model iebn_resnet50.')


def _adapted(model: nn.Module, given: Mapping[str, Tensor], file: WeightsFile) -> str:
    norms, own = norms_in(model), model.state_dict()
    said = [f'{BN}, converted' if norms == IEBN and norms_of(file.state_dict) == BN else norms or '']
    for what, layer, dim in (('classifier', 'classifier', 0), ('input', 'first_conv', 1)):
        name = cfg_of(model).get(layer)
        key = f'{name}.weight'
        if not isinstance(name, str) or key not in own:
            continue
        before, after = given[key].shape[dim] if key in given else 0, own[key].shape[dim]
        said += [_change(what, before, after)] if before != after else []
    return '; '.join(filter(None, said))


def _tag(model: nn.Module, name: str) -> str:
    cfg, norms = timm.get_pretrained_cfg(name), norms_in(model)
    assert cfg is not None  # timm has just loaded the weights that it describes
    said = [f'{BN}, converted' if norms == IEBN and str(cfg.tag).startswith('bn_') else norms]
    for what, before, after in (('classifier', cfg.num_classes, getattr(model, 'num_classes', 0)),
                                ('input', cfg.input_size[0], getattr(model, 'in_chans', cfg.input_size[0]))):
        said += [_change(what, before, after)] if before != after else []
    place = shown_name(str(cfg.hf_hub_id or cfg.url or f'{cfg.architecture}.{cfg.tag}'))
    return f'{place} ({"; ".join(filter(None, said))})'


def _change(what: str, before: int, after: int) -> str:
    if what == 'classifier':
        return f'new classifier: {before} -> {after} classes' if before else f'new classifier: {after} classes'
    return f'first layer adapted: {before} -> {after} channels'
