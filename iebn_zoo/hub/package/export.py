"""A run becomes a directory that is a Hub repository, proved by loading it back in a fresh process."""
import math
import shutil
import sys
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple, Union

from iebn_zoo.hub.card.card import UNKNOWN, make_card
from iebn_zoo.hub.card.network_facts import network_facts
from iebn_zoo.hub.card.run_facts import RunFacts, read_run
from iebn_zoo.hub.formats.table import chosen_formats
from iebn_zoo.hub.package.config import DATA_FIELDS, write_model
from iebn_zoo.hub.package.directory import check_output, new_directory, reload_fresh
from iebn_zoo.hub.package.evaluation import (
    EvaluationImages,
    check_evaluation_images,
    evaluate_directory,
    evaluated_on,
)
from iebn_zoo.hub.package.golden import write_golden
from iebn_zoo.hub.package.ids import check_ids
from iebn_zoo.hub.package.runtimes import write_formats
from iebn_zoo.training.run.checkpoint import BEST, LAST
from iebn_zoo.training.run.records import plot_curves
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.ranking import key_of
from iebn_zoo.weights.open import Network, open_network


def export(
        run: Union[str, Path],
        output: Union[str, Path],
        *,
        ema: Optional[bool] = None,
        best: bool = False,
        overwrite: bool = False,
        license: Optional[str] = None,
        repo_id: Optional[str] = None,
        dataset_id: Optional[str] = None,
        formats: Sequence[str] = (),
        images: Optional[EvaluationImages] = None,
) -> Tuple[Path, float]:
    """Write ``output``: model.safetensors, config.json, README.md, golden.safetensors, curves.png, summary.csv,
    and the files of further formats.

    Args:
        run: Run directory, or a checkpoint file in one.
        output: Directory to make. It appears whole or not at all.
        ema: True takes the EMA weights, False the others. None takes the others, but with ``best`` the weights by which
            the epoch was ranked, which are the EMA weights where the run has some.
        best: Take the best epoch instead of the last.
        overwrite: Replace an existing ``output`` if an export made it and nobody added files to it.
        license: Hub id of the license. Default: that of the weights the run started from, apache-2.0 where it started
            from random weights, and ``unknown`` where it is not known.
        repo_id: Repository that the card's snippets name, OWNER/NAME.
        dataset_id: Hub id of the data.
        formats: Further formats to write: 'onnx', 'torchscript', 'openvino'.
        images: Measure the exported files on these images; evaluation.json and the card say what was counted.

    Returns:
        ``output`` and the largest difference of the reloaded logits.

    Raises:
        UsageError: There is no such run, it has no EMA weights, ``output`` exists, the Hub does not allow an id, a
            format is unknown or needs a package that is not installed, or the images do not fit.
        IEBNZooError: The weights are damaged or not finite, the log belongs to other weights, the reload differs, or a
            format cannot hold the network or computes something else.
    """
    run, output = Path(run), Path(output)
    check_ids(license, repo_id, dataset_id)
    check_output(output, overwrite)
    chosen = chosen_formats(formats)
    if best and run.is_file():
        raise UsageError(f'--best looks for {BEST} in a run directory, and {run} is a file.\nGive one or the other.')
    path = run / (BEST if best else LAST) if run.is_dir() else run
    opened = _open(path, bool(ema))
    if ema is None and best and key_of(opened.checkpoint) == 'state_dict_ema':
        opened = _open(path, True)
        ema = True
    print(opened.description, file=sys.stderr, flush=True)
    checkpoint, model = opened.checkpoint, opened.model
    network = network_facts(model, checkpoint['arch'], checkpoint['model_args'], checkpoint['data_config'],
                            checkpoint.get('label_names'))
    said = read_run(path.parent, checkpoint, network.num_classes, bool(ema), dataset_id)
    license = license or said.license
    _check_log(said, checkpoint, path.parent / 'summary.csv')
    if images:
        check_evaluation_images(images, said, network.num_classes)
    with new_directory(output) as made:
        write_model(made, model, network, license)
        shutil.copyfile(path.parent / 'summary.csv', made / 'summary.csv')
        plot_curves(made, said.rows)  # the curve of an interrupted or resumed run may be missing or old
        measured = write_formats(made, model, network, chosen)
        evaluation = evaluate_directory(
            made, images, said.num_eval_images, evaluated_on(checkpoint, said, images)) if images else None
        write_text(made / 'README.md', make_card(
            network, said, license or UNKNOWN, repo_id, formats=measured, evaluation=evaluation))
        write_golden(made, model, network.data_config, network.label_names)  # last, because it binds the others
        difference = reload_fresh(made)
    return output, difference


def _open(path: Path, ema: bool) -> Network:
    network = open_network(checkpoint=path, use_ema=ema)
    checkpoint = network.checkpoint
    if not checkpoint:
        raise IEBNZooError(f'{path} is no checkpoint of a training run.\nExpected a file written by training, such as '
                           f'{LAST}; iebn-zoo convert takes any weights.')
    step = (checkpoint.get('position') or {}).get('step', 0)
    if step:
        raise UsageError(
            f"{path} is from the middle of epoch {checkpoint['position']['epoch']} (step {step}): no log has its "
            f'numbers.\nExport {LAST}, or finish the epoch with --resume.')
    if checkpoint['epoch'] < 0:
        raise UsageError(f'{path} is from before the first epoch.\nTrain at least one epoch.')
    lacking = [k for k in DATA_FIELDS[:-1] if k not in (checkpoint.get('data_config') or {})]
    if lacking:
        raise IEBNZooError(f'{path} does not say the {lacking[0]} of its images.\nExport a checkpoint of train.')
    return network


def _check_log(run: RunFacts, checkpoint: Mapping[str, Any], path: Path) -> None:
    row = run.exported_row
    if row is None:
        raise IEBNZooError(
            f'{path} has no row for epoch {run.epoch}, which the checkpoint is of.\n'
            f'Expected the log of the run beside its checkpoint: the card takes its numbers from there.')
    for name in ('top1', 'top5'):
        column = run.column(name)
        value, own = row[column], (checkpoint.get('metrics') or {}).get(column)
        if not math.isfinite(value):
            raise IEBNZooError(f'{path}: {column} of epoch {run.epoch} is {value}.\nExport another epoch.')
        if own is not None and abs(value - own) > 0.01:
            raise IEBNZooError(
                f'{path}: {column} of epoch {run.epoch} is {value:.4f}, and the checkpoint measured {own:.4f}.\n'
                f'Expected the log of the same run beside the checkpoint.')
