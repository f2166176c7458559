"""The settings of a run that a card shows: what was trained and how, without the features that were off."""
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from iebn_zoo.data.transforms import crop_mode
from iebn_zoo.hub.card.command import PLACES, is_operation
from iebn_zoo.hub.card.run_facts import Recipe, known_folder
from iebn_zoo.hub.card.text import shown_setting
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.optimizer import decay_epochs
from iebn_zoo.util.places import DATASETS, dataset_name, without_places

# shown in each card that has them, whether they are the defaults or not
_ALWAYS = ('model', 'epochs', 'batch_size', 'opt', 'lr', 'momentum', 'weight_decay', 'sched', 'seed', 'hflip')
# at 0 these switch a feature off; elsewhere, as in a weight decay of 0, 0 is a value like any other
_OFF_AT_ZERO = frozenset((
    'hflip', 'vflip', 'mixup', 'cutmix', 'reprob', 'smoothing', 'color_jitter', 'warmup_epochs', 'cooldown_epochs',
    'drop', 'drop_path', 'aug_repeats', 'crop_padding'))
# settings that say more about a feature: they are shown if it was on, and not otherwise
_Args = Mapping[str, Any]
_PART_OF: Dict[str, Callable[[_Args], Any]] = {
    'amp_dtype': lambda args: args.get('amp'),
    'model_ema_decay': lambda args: args.get('model_ema'),
    'model_ema_warmup': lambda args: args.get('model_ema') and args.get('model_ema_warmup'),
    'warmup_lr': lambda args: args.get('warmup_epochs'),
    'decay_epochs': lambda args: args.get('sched') in ('step', 'wsd', 'rsqrt'),
    'decay_milestones': lambda args: args.get('sched') == 'multistep',
    'decay_rate': lambda args: args.get('sched') in ('step', 'multistep', 'plateau', 'poly'),
    'mixup_prob': lambda args: args.get('mixup') or args.get('cutmix'),
    'mixup_switch_prob': lambda args: args.get('mixup') and args.get('cutmix'),
    'bce_target_thresh': lambda args: args.get('bce_loss') and args.get('bce_target_thresh') is not None,
    'bce_sum': lambda args: args.get('bce_loss') and args.get('bce_sum'),
    'mix_count': lambda args: args.get('mix_dataset'),
    'mix_dataset_name': lambda args: args.get('mix_dataset'),
    'norm_noise_eval': lambda args: args.get('norm_noise') and args.get('norm_noise_eval'),
}
# what the card says elsewhere, and what was only measured
_LEFT_OUT = frozenset(('dataset', 'mix_dataset', 'initial_checkpoint', 'batch_noise', 'gate_stats'))


def shown_settings(args: _Args, input_size: Sequence[int]) -> Dict[str, str]:
    """Return names and values of the settings that were on, without places on somebody's machine.

    Args:
        args: args.yaml of a run, or {}.
        input_size: Channels, height and width of the images.
    """
    defaults = vars(train_parser().parse_args([]))
    pads = crop_mode(args.get('train_crop_mode'), input_size[1:]) == 'pad'
    shown = {}
    for name in sorted(args, key=lambda name: _ALWAYS.index(name) if name in _ALWAYS else len(_ALWAYS)):
        value = decay_epochs(args[name], str(args.get('sched'))) if name == 'decay_epochs' else args[name]
        if is_operation(name) or name in _LEFT_OUT or value is None or value is False or value in ('', {}, []):
            continue  # compared with False by identity: 0 == False, and a weight decay of 0 is a setting
        if name in _OFF_AT_ZERO and value == 0:
            continue
        if name == 'crop_padding':
            wanted = pads and not args.get('no_aug')
        elif name in _PART_OF:
            wanted = _PART_OF[name](args)
        else:
            wanted = name in _ALWAYS or name not in defaults or value != defaults[name]
        if wanted:
            shown[name] = dataset_name(str(value)) if name in DATASETS else shown_setting(value)
    return shown


class Change(NamedTuple):
    """The settings that changed when a run was resumed at a step of an epoch: name, value before, value after.

    A value is None where the setting was off or had its default.
    """

    epoch: int
    step: int
    settings: List[Tuple[str, Optional[str], Optional[str]]]


def shown_changes(earlier: Sequence[Recipe], args: _Args, input_size: Sequence[int]) -> List[Change]:
    """Return what changed in a run each time that it was resumed with other settings.

    Args:
        earlier: The recipes before the last one.
        args: The settings of the last one.
        input_size: See ``shown_settings``.
    """
    shown = [shown_settings(recipe, input_size) for recipe in (*(e.args for e in earlier), args)]
    changes = []
    for recipe, then, now in zip(earlier, shown, shown[1:], strict=False):
        pairs = [(name, then.get(name), now.get(name)) for name in dict.fromkeys((*then, *now))]
        changes.append(Change(recipe.epoch, recipe.step, [pair for pair in pairs if pair[1] != pair[2]]))
    return changes


def public_args(args: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the settings of a run that change its weights, with words for places on somebody's machine."""
    public: Dict[str, Any] = {}
    for name, value in args.items():
        if name == 'data_dir':
            value = known_folder(str(value))
        elif name in DATASETS and value:
            value = dataset_name(str(value))
        elif name in PLACES and value:
            value = PLACES[name]
        elif is_operation(name) and name != 'config':
            continue
        public[name] = without_places(value)
    return public
