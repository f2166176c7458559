"""Fine-tunes a folded network, which is a plain BatchNorm network that has lost what its gates told of each image.

The training is one of ``iebn-zoo train``, in a directory beside the output. An interrupted one goes on from its last
checkpoint when the same command is given again. The directory is removed when the output is there.
"""
import argparse
import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping

from iebn_zoo.conversion.folding.agreement import measure_agreement
from iebn_zoo.conversion.folding.inference import Images
from iebn_zoo.data.settings import AugmentationSettings
from iebn_zoo.hub.card.network_facts import network_facts
from iebn_zoo.hub.card.run_facts import read_args
from iebn_zoo.hub.card.settings import public_args, shown_settings
from iebn_zoo.hub.convert.convert import Conversion
from iebn_zoo.hub.package.config import write_model
from iebn_zoo.hub.package.directory import new_directory
from iebn_zoo.hub.package.source import Source
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.recipe import parse_with_recipe, parse_with_settings
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.training.run.records import ARGS, Row, read_summary
from iebn_zoo.training.train import train
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.weights.checksum import content_digest
from iebn_zoo.weights.fit import load_weights

RATE = 0.1  # of the learning rate of the training: a network that has been trained moves little
_FOLDED, _RUN, _SETTINGS = 'folded', 'run', 'settings.json'
# what a fine-tuning takes over from the training of the network, or from a recipe
_TAKEN = (
    'batch_size', 'grad_accum_steps', 'opt', 'opt_eps', 'opt_betas', 'opt_args', 'lr', 'momentum', 'weight_decay',
    'weight_decay_all', 'clip_grad', 'drop', 'drop_path', 'amp', 'amp_dtype', 'channels_last', 'torchcompile',
    'torchcompile_mode', *(field.name for field in fields(AugmentationSettings)))
# what it takes from the command that folds
_GIVEN = ('data_dir', 'dataset', 'dataset_download', 'val_split', 'workers', 'skip_corrupt', 'device')


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning that can begin or go on.

    Attributes:
        flags: The flags of ``train``.
        place: Directory of the folded network, the run and the settings, beside the output.
        settings: What must be the same when an interrupted one goes on, as JSON values.
    """

    flags: argparse.Namespace
    place: Path
    settings: Dict[str, Any]

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.place / _RUN

    def rows(self) -> List[Row]:
        """Return the rows of the run's summary.csv."""
        return read_summary(self.run)

    def remove(self) -> None:
        """Remove the directory of the fine-tuning."""
        shutil.rmtree(self.place, ignore_errors=True)


def plan_tuning(args: argparse.Namespace, source: Source, output: Path) -> Tuning:
    """Settle how the folded network is fine-tuned. Nothing is written.

    The settings are those of ``args.tune_config``, a recipe; else those of the run that ``source`` is of; else the
    defaults of ``train`` with ``args.batch_size``. The learning rate is ``args.tune_lr``, or a tenth of theirs. It
    follows a cosine without warmup over ``args.tune_epochs`` epochs.

    Args:
        args: ``tune_epochs``, ``tune_lr``, ``tune_config``, ``calibration_images``, and the flags of
            ``add_data_arguments`` and ``add_device``.
        source: The network that is folded.
        output: Directory that the conversion will write.

    Raises:
        UsageError: A recipe or a setting is wrong, or another fine-tuning was interrupted there.
    """
    base, place = _base(args, source), output.with_name(f'{output.name}.tuning')
    flags = train_parser().parse_args([])
    for name in _TAKEN:
        setattr(flags, name, getattr(base, name))
    for name in _GIVEN:
        setattr(flags, name, getattr(args, name))
    channels = source.data_config['input_size'][0]
    flags.in_chans = channels if channels == 1 else None  # grey images are opened as such
    flags.num_classes = int(source.model_args.get('num_classes') or getattr(source.model, 'num_classes', 0))
    flags.model, flags.pretrained = f'local-dir:{place / _FOLDED}', True
    flags.epochs, flags.lr = args.tune_epochs, base.lr * RATE if args.tune_lr is None else args.tune_lr
    flags.sched, flags.sched_on_updates = 'cosine', True
    flags.output, flags.resume = str(place / _RUN), 'if-any'
    settings = dict(source=content_digest(source.model.state_dict()), calibration_images=args.calibration_images,
                    **public_args(vars(flags)))
    tuning = Tuning(flags, place, json.loads(json.dumps(settings)))
    _check_place(tuning)
    return tuning


def tune(tuning: Tuning, conversion: Conversion, source: Source, held_out: Images) -> Conversion:
    """Fine-tune a folded network, or go on with it.

    Args:
        tuning: How, and where.
        conversion: The fold.
        source: The network that was folded, on the device that compares.
        held_out: Images on which the tuned network is compared with ``source``.

    Returns:
        ``conversion`` with the tuned weights, and with what the comparison found among its figures.

    Raises:
        UsageError: The images do not fit.
        IEBNZooError: A file cannot be read or written, or the training failed.
    """
    if not tuning.place.exists():
        network = network_facts(
            conversion.model, conversion.arch, conversion.model_args, source.data_config, source.label_names)
        with new_directory(tuning.place) as made:
            write_model(made / _FOLDED, conversion.model, network, source.license)
            write_text(made / _SETTINGS, json.dumps(tuning.settings, indent=2) + '\n')
    train(tuning.flags, class_names=source.label_names)
    load_weights(conversion.model, load_checkpoint(tuning.run / LAST)['state_dict'], 'the fine-tuned network')
    model = conversion.model.to(resolve_device(tuning.flags.device)).eval()
    agreement = measure_agreement(source.model, model, held_out)
    size = source.data_config['input_size']
    settings = {k: v for k, v in shown_settings(vars(tuning.flags), size).items() if k not in ('model', 'pretrained')}
    figures = dict(epochs=tuning.flags.epochs, lr=tuning.flags.lr, seed=tuning.flags.seed, settings=settings,
                   agreement=agreement.figures())
    return replace(conversion, model=model.cpu(), figures={**conversion.figures, 'tuning': figures}, tuning=tuning)


def tuning_line(figures: Mapping[str, Any]) -> str:
    """Return one line that says what a fine-tuning brought back.

    Args:
        figures: The figures of a conversion that was fine-tuned.
    """
    tuned, folded = figures['tuning'], figures['agreement']
    a = tuned['agreement']
    if a['accuracy_folded'] is None:
        found = f"top-1 agreement {100 * folded['top1_agreement']:.2f} % -> {100 * a['top1_agreement']:.2f} %"
    else:
        found = (f"accuracy {100 * a['accuracy_original']:.2f} % with gates, {100 * folded['accuracy_folded']:.2f} % "
                 f"folded, {100 * a['accuracy_folded']:.2f} % fine-tuned")
    return f"{tuned['epochs']} epochs of fine-tuning at lr {tuned['lr']:g}: {found} (of {a['held_out_images']} images)"


def _base(args: argparse.Namespace, source: Source) -> argparse.Namespace:
    parser = train_parser()
    parser.set_defaults(batch_size=args.batch_size)  # where neither a recipe nor the run says it
    if args.tune_config:
        return parse_with_recipe(parser, ['--config', args.tune_config])
    if source.run is None:
        return parser.parse_args([])
    recorded = read_args(source.run)
    taken = {name: recorded[name] for name in _TAKEN if name in recorded}
    return parse_with_settings(parser, taken, source.run / ARGS)


def _check_place(tuning: Tuning) -> None:
    path = tuning.place / _SETTINGS
    if not tuning.place.exists():
        return
    try:
        there = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(there, dict):
            raise ValueError
    except (OSError, ValueError) as e:
        raise UsageError(f'{tuning.place} exists, and holds no fine-tuning that was interrupted.\n'
                         f'It is the place for the checkpoints: move it away, or give another --output.') from e
    odd = next((name for name in {**there, **tuning.settings} if there.get(name) != tuning.settings.get(name)), None)
    if odd is not None:
        what = 'was of another network' if odd == 'source' else (
            f'had {odd} {there.get(odd)!r}, and now it is {tuning.settings.get(odd)!r}')
        raise UsageError(f'{tuning.place} holds an interrupted fine-tuning that {what}.\n'
                         f'Give the flags that it had, or remove the directory to begin anew.')
