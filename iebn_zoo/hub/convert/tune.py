"""Fine-tunes a folded network: a plain BatchNorm network, whose gates no longer depend on the image.

The training is one of ``iebn-zoo train``, in a directory beside the output (``tuning_place``).
"""
import argparse
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

from iebn_zoo.conversion.folding.agreement import measure_agreement
from iebn_zoo.conversion.folding.inference import Images
from iebn_zoo.conversion.folding.report import FoldReport
from iebn_zoo.data.loader import make_loader
from iebn_zoo.data.settings import AugmentationSettings
from iebn_zoo.hub.card.network_facts import network_facts
from iebn_zoo.hub.card.run_facts import read_args
from iebn_zoo.hub.card.settings import public_args, shown_settings
from iebn_zoo.hub.convert.convert import Conversion, fold, fold_again
from iebn_zoo.hub.convert.fold_images import holdout_of
from iebn_zoo.hub.convert.tuning_place import TuningPlace
from iebn_zoo.hub.package.config import write_model
from iebn_zoo.hub.package.proof import WEIGHTS
from iebn_zoo.hub.package.source import Source
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.training.config.loss import make_loss
from iebn_zoo.training.config.optimizer import decay_epochs, make_optimizer
from iebn_zoo.training.config.recipe import parse_with_recipe, parse_with_settings
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.plan import make_plan
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.training.run.records import ARGS, Row, read_summary
from iebn_zoo.training.train import train
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, first_line
from iebn_zoo.weights.checksum import content_digest
from iebn_zoo.weights.file import read_weights_file
from iebn_zoo.weights.fit import load_weights

_PART = 10  # the learning rate is this part of that of the training: a network that has been trained moves little
# what a fine-tuning takes from the training of the network, or from a recipe
_TAKEN = (
    'batch_size', 'grad_accum_steps', 'opt', 'opt_eps', 'opt_betas', 'opt_args', 'lr', 'layer_decay', 'momentum',
    'weight_decay', 'weight_decay_all', 'clip_grad', 'drop', 'drop_path', 'grad_checkpointing', 'amp', 'amp_dtype',
    'channels_last', 'torchcompile', 'torchcompile_mode', 'seed', 'deterministic', 'checkpoint_steps',
    *(field.name for field in fields(AugmentationSettings)))
# what it takes from the command that folds
_GIVEN = ('data_dir', 'dataset', 'dataset_download', 'train_split', 'val_split', 'workers', 'skip_corrupt', 'device')


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning that has been checked and can begin or go on.

    Attributes:
        flags: The flags of ``train``.
        place: Its directory.
        settings: What must be the same when it goes on, as JSON values.
        goes_on: It was interrupted before.
    """

    flags: argparse.Namespace
    place: TuningPlace
    settings: Dict[str, Any]
    goes_on: bool

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.place.run

    def rows(self) -> List[Row]:
        """Return the rows of the run's summary.csv."""
        return read_summary(self.run)


@contextmanager
def planned_tuning(args: argparse.Namespace, source: Source, output: Path) -> Iterator[Tuning]:
    """Settle and check how the folded network is fine-tuned, and hold its directory.

    The settings are those of ``args.tune_config``, a recipe; else those of the run that ``source`` is of, with a tenth
    of its learning rate; else the defaults of ``train``, likewise. ``args.tune_lr`` and ``args.tune_batch_size`` count
    before them. The learning rate follows a cosine without warmup over ``args.tune_epochs`` epochs.

    Args:
        args: ``tune_epochs``, ``tune_lr``, ``tune_config``, ``tune_batch_size``, ``calibration_images``,
            ``train_split``, ``overwrite``, and the flags of ``add_data_arguments`` and ``add_device``.
        source: The network that is folded.
        output: Directory that the conversion will write.

    Raises:
        UsageError: A recipe or a setting is wrong, the data do not fit, another process fine-tunes there, or another
            fine-tuning was interrupted there.
        IEBNZooError: The directory cannot be made, or the images cannot be opened.
    """
    place = TuningPlace(output)
    flags = _flags(args, source, place)
    _check(flags, source)
    settings = dict(
        source=content_digest(source.model.state_dict()), arch=source.arch, model_args=source.model_args,
        data_config=source.data_config, label_names=source.label_names, calibration_images=args.calibration_images,
        **public_args({k: v for k, v in vars(flags).items() if k != 'model'}))
    settings = json.loads(json.dumps(settings, default=str))
    defaults = public_args(vars(train_parser().parse_args([])))
    with place.held():
        yield Tuning(flags, place, settings, place.goes_on(settings, defaults, args.overwrite))


def fold_to_tune(
        tuning: Tuning, source: Source, calibration: Images, held_out: Images, data: Mapping[str, Any],
        args: argparse.Namespace) -> Conversion:
    """Fold ``source`` and begin the fine-tuning with it. Where that goes on, return the fold it began with: its gates
    and its comparison may have taken hours.

    Args:
        tuning: How the network is fine-tuned, and where.
        source: The network to fold.
        calibration: Images over which the gates are averaged.
        held_out: Images on which the folded network is compared with ``source``.
        data: What the figures say of the images.
        args: ``held_out_images`` and ``device``. Another number of held-out images than before is a reason to fold
            again.

    Raises:
        UsageError: The images do not fit.
        IEBNZooError: Gates or logits are not finite, or a file cannot be written.
    """
    place = tuning.place
    asked = dict(data=dict(data), held_out_images=args.held_out_images)
    if tuning.goes_on:
        kept = _kept_fold(place, source, asked)
        if kept is not None:
            source.model.to(resolve_device(args.device))  # where a fold leaves it
            print(f'note: the folded network of the interrupted command is in {place.folded}; it is not made again',
                  file=sys.stderr, flush=True)
            return kept
    conversion = fold(source, calibration, held_out, resolve_device(args.device), data)
    found = {**asked, 'report': asdict(conversion.report)}
    if tuning.goes_on:
        place.keep_fold(found)
    else:
        network = network_facts(
            conversion.model, conversion.arch, conversion.model_args, source.data_config, source.label_names)
        place.begin(tuning.settings, found, lambda path: write_model(path, conversion.model, network, source.license))
    return conversion


def tune(tuning: Tuning, conversion: Conversion, source: Source, held_out: Images) -> Conversion:
    """Fine-tune a folded network, or go on with it.

    Args:
        tuning: How, and where.
        conversion: The fold, see ``fold_to_tune``.
        source: The network that was folded, on the device that compares.
        held_out: Images on which the tuned network is compared with ``source``.

    Returns:
        ``conversion`` with the tuned weights, and with what the comparison found among its figures.

    Raises:
        UsageError: The images do not fit.
        IEBNZooError: A file cannot be read or written, or the training failed.
    """
    place, flags = tuning.place, tuning.flags
    try:
        train(flags, class_names=source.label_names)
    except IEBNZooError as e:
        raise type(e)(f'the fine-tuning stopped: {first_line(e)}\n--tune-lr, --batch-size and --tune-config change its '
                      f'settings. What was trained stays in {place.path}.') from e
    load_weights(conversion.model, load_checkpoint(tuning.run / LAST)['state_dict'], 'the fine-tuned network')
    model = conversion.model.to(resolve_device(flags.device)).eval()
    agreement = measure_agreement(source.model, model, held_out).figures()
    accuracy, correct = agreement.pop('accuracy_folded'), agreement.pop('correct_folded')
    size = source.data_config['input_size']
    settings = {k: v for k, v in shown_settings(vars(flags), size).items() if k not in ('model', 'pretrained')}
    figures = dict(epochs=flags.epochs, lr=flags.lr, seed=flags.seed, settings=settings,
                   agreement={**agreement, 'accuracy_tuned': accuracy, 'correct_tuned': correct})
    return replace(conversion, model=model.cpu(), figures={**conversion.figures, 'tuning': figures}, tuning=tuning)


def tuning_line(figures: Mapping[str, Any]) -> str:
    """Return one line that says what a fine-tuning brought back.

    Args:
        figures: The figures of a conversion that was fine-tuned.
    """
    tuned, folded = figures['tuning'], figures['agreement']
    a = tuned['agreement']
    if a['accuracy_tuned'] is None:
        found = f"top-1 agreement {100 * folded['top1_agreement']:.2f} % -> {100 * a['top1_agreement']:.2f} %"
    else:
        found = (f"accuracy {100 * a['accuracy_original']:.2f} % with gates, {100 * folded['accuracy_folded']:.2f} % "
                 f"folded, {100 * a['accuracy_tuned']:.2f} % fine-tuned")
    epochs = f"{tuned['epochs']} epoch{'s' if tuned['epochs'] > 1 else ''}"
    return f"{epochs} of fine-tuning at lr {tuned['lr']:g}: {found} (of {a['held_out_images']} images)"


def _kept_fold(place: TuningPlace, source: Source, asked: Mapping[str, Any]) -> Optional[Conversion]:
    found = place.fold()
    if found is None or any(found.get(name) != value for name, value in asked.items()):
        return None
    try:
        report = FoldReport.from_plain(found['report'])
        weights = read_weights_file(place.folded / WEIGHTS).state_dict
        return fold_again(source, weights, report, asked['data'])
    except (KeyError, TypeError, IEBNZooError):  # damaged: the fold is made again
        return None


def _flags(args: argparse.Namespace, source: Source, place: TuningPlace) -> argparse.Namespace:
    base, flags = _base(args, source), train_parser().parse_args([])
    for name in _TAKEN:
        setattr(flags, name, getattr(base, name))
    for name in _GIVEN:
        setattr(flags, name, getattr(args, name))
    channels = source.data_config['input_size'][0]
    flags.in_chans = channels if channels == 1 else None  # grey images are opened as such
    flags.num_classes = int(source.model_args.get('num_classes') or getattr(source.model, 'num_classes', 0))
    flags.model, flags.pretrained = f'local-dir:{place.folded}', True
    flags.epochs, flags.sched, flags.sched_on_updates = args.tune_epochs, 'cosine', True
    flags.decay_epochs = decay_epochs(None, flags.sched)  # as earlier versions recorded it, so that theirs go on
    if args.tune_lr is not None:
        flags.lr = args.tune_lr
    elif not args.tune_config:
        flags.lr = base.lr / _PART
    if args.tune_batch_size is not None:
        flags.batch_size = args.tune_batch_size
    holdout = holdout_of(source, args)
    if holdout is not None:  # the seed says which images
        flags.holdout, flags.seed = holdout
    flags.output, flags.resume, flags.checkpoint_hist = str(place.run), 'if-any', 1
    return flags


def _base(args: argparse.Namespace, source: Source) -> argparse.Namespace:
    parser = train_parser()
    defaults = parser.parse_args([])
    if args.tune_config:
        base = parse_with_recipe(parser, ['--config', args.tune_config])
        unused = [name for name, value in vars(base).items() if value != getattr(defaults, name)
                  and name not in (*_TAKEN, 'config')]
        if unused:
            print(f'note: {args.tune_config}: {", ".join(unused)} {"is" if len(unused) == 1 else "are"} not used for '
                  f'the fine-tuning', file=sys.stderr, flush=True)
        return base
    if source.run is None:
        return defaults
    recorded = read_args(source.run, source.checkpoint)
    taken = {name: recorded[name] for name in _TAKEN if name in recorded}
    return parse_with_settings(parser, taken, source.run / ARGS)


def _check(flags: argparse.Namespace, source: Source) -> None:
    """Find before the fold, which may take hours, what the training would find after it."""
    check_limits(flags)
    settings, device = TrainSettings.from_flags(flags), resolve_device(flags.device)
    settings = replace(settings, in_chans=settings.in_chans or 3)  # the folded network, which would tell, is not there
    plan = make_plan(settings, device, source.label_names)
    make_loader(plan.train_images, settings, source.data_config, device, train=True)
    make_loss(settings, plan.num_classes)
    make_optimizer(settings, source.model, 1)
