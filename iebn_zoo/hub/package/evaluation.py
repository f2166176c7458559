"""The accuracy of the files of an export, as a user measures it: in float32, on the CPU, by ``iebn-zoo validate``.

A training evaluates as it trains, for example in bfloat16 and compiled. What it counted differs by a few images from
what the loaded files get right.
"""
import argparse
import json
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

from iebn_zoo.data.images import LabelledImages
from iebn_zoo.data.named import is_folder
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
    """Raise UsageError unless the flags can mean the images that the run was evaluated on, as the card will say.

    ``evaluate_directory`` opens the images and compares their number, and their digest where the run recorded one.
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


def evaluated_on(checkpoint: Mapping[str, Any], run: RunFacts, images: EvaluationImages) -> Optional[str]:
    """Return the digest of the images that a run was evaluated on, if that of ``images`` can be compared with it.

    It is made of the names, order and sizes of the files in a folder or tar, wherever it lies; of a named dataset it is
    made of the name and the classes. So the images of a folder cannot be compared with those of a named dataset.

    Args:
        checkpoint: The content of the checkpoint of the run.
        run: What the run says.
        images: The images to measure on.

    Returns:
        The digest; None where the checkpoint has none, or one of another kind of dataset or of one that is not known.
    """
    data = checkpoint.get('data')
    digest = data.get('eval') if isinstance(data, dict) else None
    trained = str(run.args.get('dataset') or '')
    here, there = ('' if is_folder(name) else name for name in (images.dataset, trained))
    return digest if isinstance(digest, str) and run.args and here == there else None


def evaluate_directory(
        directory: Path,
        images: EvaluationImages,
        expected: Optional[int] = None,
        digest: Optional[str] = None,
) -> Evaluation:
    """Measure the network in a directory, and write the result there as evaluation.json.

    Args:
        directory: With config.json and the weights.
        images: The evaluation images.
        expected: Number of images that the run was evaluated on, or None where it is not known.
        digest: What ``evaluated_on`` returned for the run.

    Returns:
        What was counted.

    Raises:
        UsageError: There are no such images, they have other classes than the network, or they are not those of the
            run.
        IEBNZooError: An image cannot be read, or the loss is not finite.
    """
    def check(found: LabelledImages) -> None:
        said = None
        if expected not in (None, len(found)):
            said = f'has {len(found):,} images, and the run was evaluated on {expected:,}'
        elif digest not in (None, found.digest):
            said = 'has other images than the run was evaluated on: their names, sizes or classes differ'
        if said:
            raise UsageError(f'--data-dir {images.data_dir} {said}.\n'
                             f'Give the evaluation images of the run, or use iebn-zoo validate.')

    words = ['--model', f'local-dir:{directory}', '--device', 'cpu', '--data-dir', images.data_dir,
             '--dataset', images.dataset, *(['--val-split', images.val_split] if images.val_split else []),
             *(['--dataset-download'] if images.download else [])]
    found = validate(validate_parser().parse_args(words), check)
    evaluation = Evaluation(found['top1_count'], found['top5_count'], found['count'], found['loss'])
    write_text(directory / EVALUATION, json.dumps({**evaluation._asdict(), 'precision': 'float32'}, indent=2) + '\n')
    return evaluation
