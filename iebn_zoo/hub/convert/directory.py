"""A converted network becomes a directory that is a Hub repository."""
import json
import shutil
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import timm
import torch

from iebn_zoo.conversion.folding import FoldReport
from iebn_zoo.hub.card.card import UNKNOWN, make_conversion_card
from iebn_zoo.hub.card.network_facts import NetworkFacts, network_facts
from iebn_zoo.hub.card.run_facts import Dataset, base_model_of, dataset_of, read_args
from iebn_zoo.hub.convert.convert import Conversion
from iebn_zoo.hub.convert.lineage import training_of
from iebn_zoo.hub.formats.table import Format
from iebn_zoo.hub.package.config import write_model
from iebn_zoo.hub.package.directory import new_directory, reload_fresh
from iebn_zoo.hub.package.golden import write_golden
from iebn_zoo.hub.package.proof import CONVERSION_REPORT, FOLD_REPORT
from iebn_zoo.hub.package.runtimes import write_formats
from iebn_zoo.hub.package.source import Source
from iebn_zoo.training.run.origin import license_of, start_of
from iebn_zoo.training.run.records import SUMMARY, plot_curves
from iebn_zoo.util.files import write_text
from iebn_zoo.version import __version__


def write_conversion(
        conversion: Conversion,
        source: Source,
        output: Union[str, Path],
        *,
        license: Optional[str] = None,
        base_model: Optional[str] = None,
        repo_id: Optional[str] = None,
        dataset_id: Optional[str] = None,
        formats: Sequence[Format] = (),
) -> Tuple[Path, float]:
    """Write ``output``: weights, config.json, card, golden logits and report; for a fold also its CSV and picture;
    for a fine-tuned fold also the log and the curves; and further formats.

    Args:
        conversion: The converted network.
        source: The network that was converted.
        output: Directory to make, or to replace (see ``check_output``). It appears whole or not at all.
        license: Hub id of the license. Default: that of the source; the card says ``unknown`` where it is not known.
        base_model: Hub id of the weights that were converted. Default: that of the source, and for a training run that
            of the weights it started from.
        repo_id: Repository that the card's snippets name, OWNER/NAME.
        dataset_id: Hub id of the data that the weights were trained on.
        formats: Further formats to write: what ``chosen_formats`` returned.

    Returns:
        ``output`` and the largest difference of the reloaded logits.

    Raises:
        IEBNZooError: It cannot be written, the reload differs, or a format cannot hold the network or computes
            something else.
    """
    output = Path(output)
    network = network_facts(
        conversion.model, conversion.arch, conversion.model_args, source.data_config, source.label_names)
    dataset = Dataset(dataset_id, dataset_id or 'that of the source, not known here')
    if source.run is not None:
        args = read_args(source.run, source.checkpoint)
        dataset = dataset_of(args, network.num_classes, dataset_id)
        base_model = base_model or source.base_model or base_model_of(args)
        license = license or source.license or license_of(start_of(source.checkpoint, args))
    elif source.carried is not None:
        dataset = dataset_of(read_args(source.carried, {}), network.num_classes, dataset_id)
    license = license or source.license
    carried = {'carried_as': source.carried.name} if source.carried is not None else {}
    report = {**_report(conversion, network, base_model or source.base_model), **carried,
              'source_weights': training_of(source, conversion.kind), 'trained_on': dataset._asdict()}
    with new_directory(output) as made:
        write_model(made, conversion.model, network, license)
        if isinstance(conversion.report, FoldReport):
            conversion.report.write_csv(made / 'fold_report.csv')
            from iebn_zoo.plots.fold_report import draw_gates  # matplotlib takes its time to import
            draw_gates(conversion.report, made / 'gates.png')
        name = FOLD_REPORT if isinstance(conversion.report, FoldReport) else CONVERSION_REPORT
        write_text(made / name, json.dumps(report, indent=2, allow_nan=False) + '\n')
        if conversion.tuning is not None:
            shutil.copyfile(conversion.tuning.run / SUMMARY, made / SUMMARY)
            plot_curves(made, conversion.tuning.rows())
        measured = write_formats(made, conversion.model, network, formats)
        write_text(made / 'README.md', make_conversion_card(
            network, dataset, report, license or UNKNOWN, repo_id, measured))
        # last, because it binds the others
        write_golden(made, conversion.model, network.data_config, network.label_names)
        difference = reload_fresh(made)
    return output, difference


def _report(conversion: Conversion, network: NetworkFacts, base_model: Optional[str]) -> Dict[str, Any]:
    versions = dict(iebn_zoo=__version__, timm=timm.__version__, torch=torch.__version__)
    return {**conversion.figures, 'base_model': base_model, 'parameters': network.parameters,
            'gated_channels': network.gates, 'macs': network.macs, 'versions': versions}
