"""The accuracy of the files of an export, as a user measures it: in float32, on the CPU, by ``iebn-zoo validate``.

A training evaluates as it trains, for example in bfloat16 and compiled. What it counted differs by a few images from
what the loaded files get right.
"""
import argparse
import json
from pathlib import Path
from typing import NamedTuple, Optional

from iebn_zoo.hub.card.evaluation_facts import EVALUATION, Evaluation
from iebn_zoo.hub.card.run_facts import RunFacts, dataset_of
from iebn_zoo.training.config.arguments import validate_parser
from iebn_zoo.training.validate import validate
from iebn_zoo.util.command_line.flags import Switch, expanded
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text


class EvaluationImages(NamedTuple):
    """Labelled images, by the flags of ``validate``.

    Attributes:
        data_dir: Their directory.
        dataset: timm's name of a dataset, or nothing for a folder or tar.
        val_split: The split, or None for val or test.
        download: Download a named dataset that is not there.
    """

    data_dir: str
    dataset: str = ''
    val_split: Optional[str] = None
    download: bool = False


def add_evaluation_images(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ``evaluation_images`` reads."""
    g = parser.add_argument_group('measuring', 'what the exported files get right in float32, as iebn-zoo validate '
                                  'counts it; the log of a training may be in bfloat16')
    g.add_argument('--data-dir', type=expanded, metavar='DIR', help='evaluation images, as in validate')
    g.add_argument('--dataset', default='', metavar='NAME', help="timm's name of a dataset, as in validate")
    g.add_argument('--dataset-download', action=Switch, help='download a named dataset that is not there')
    g.add_argument('--val-split', metavar='NAME', help='folder, tar or split to evaluate on (default: val or test)')


def evaluation_images(args: argparse.Namespace) -> Optional[EvaluationImages]:
    """Return the images that the flags name, or None.

    Raises:
        UsageError: There is a dataset or a split, and no directory.
    """
    if args.data_dir is None:
        if args.dataset or args.val_split or args.dataset_download:
            raise UsageError(f'{args.dataset or args.val_split or "--dataset-download"} says which images to measure '
                             f'on, and not where they are.\nGive --data-dir DIR too.')
        return None
    return EvaluationImages(args.data_dir, args.dataset, args.val_split, args.dataset_download)


def check_evaluation_images(images: EvaluationImages, run: RunFacts, num_classes: int) -> None:
    """Raise UsageError unless the images can be those that the run was evaluated on, as the card will say.

    ``evaluate_directory`` compares their number. Of a folder without a known name nothing more can be told.
    """
    if run.args.get('holdout'):
        raise UsageError(f'--data-dir {images.data_dir}: the run was evaluated on images that it held out of the '
                         f'training split (--holdout).\nLeave --data-dir out; iebn-zoo validate --held-out measures on '
                         f'them again.')
    given = dataset_of(dict(dataset=images.dataset, data_dir=images.data_dir), num_classes, None)
    trained = dataset_of(run.args, num_classes, None)
    split, own = images.val_split, run.args.get('val_split') or None
    for what, here, there in (('', given.name, trained.name), ('split ', split or 'default', own or 'default')):
        if here != there:
            raise UsageError(f'--data-dir {images.data_dir} is {what}{here}, and the run was evaluated on {what}'
                             f'{there}.\nGive the evaluation images of the run, or use iebn-zoo validate.')


def evaluate_directory(directory: Path, images: EvaluationImages, expected: Optional[int] = None) -> Evaluation:
    """Measure the network in a directory, and write the result there as evaluation.json.

    Args:
        directory: With config.json and the weights.
        images: The evaluation images.
        expected: Number of images that the run was evaluated on, or None where it is not known.

    Returns:
        What was counted.

    Raises:
        UsageError: There are no such images, or they have other classes than the network or another number.
        IEBNZooError: An image cannot be read, or the loss is not finite.
    """
    words = ['--model', f'local-dir:{directory}', '--device', 'cpu', '--data-dir', images.data_dir,
             '--dataset', images.dataset, *(['--val-split', images.val_split] if images.val_split else []),
             *(['--dataset-download'] if images.download else [])]
    found = validate(validate_parser().parse_args(words))
    evaluation = Evaluation(found['top1_count'], found['top5_count'], found['count'], found['loss'])
    if expected not in (None, evaluation.count):
        raise UsageError(f'--data-dir {images.data_dir} has {evaluation.count:,} images, and the run was evaluated on '
                         f'{expected:,}.\nGive the evaluation images of the run, or use iebn-zoo validate.')
    write_text(directory / EVALUATION, json.dumps({**evaluation._asdict(), 'precision': 'float32'}, indent=2) + '\n')
    return evaluation
