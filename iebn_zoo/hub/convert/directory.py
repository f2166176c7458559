"""A converted network becomes a directory that is a Hub repository."""
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import timm
import torch

from iebn_zoo.conversion.folding import FoldReport
from iebn_zoo.hub.card.card import UNKNOWN
from iebn_zoo.hub.card.facts import Facts, gather
from iebn_zoo.hub.convert.card import make_conversion_card
from iebn_zoo.hub.convert.convert import Conversion
from iebn_zoo.hub.package.config import write_model
from iebn_zoo.hub.package.directory import new_directory, reload_fresh
from iebn_zoo.hub.package.golden import write_golden
from iebn_zoo.hub.package.proof import CONVERSION_REPORT, FOLD_REPORT
from iebn_zoo.hub.package.source import Source
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
) -> Tuple[Path, float]:
    """Write ``output``: weights, config.json, card, golden logits and the report; of a fold also its CSV and picture.

    Args:
        conversion: What to write.
        source: What it was made of.
        output: Directory to make, or to replace; see ``check_output``. It appears whole or not at all.
        license: Hub id, instead of the source's; where neither is known the card says ``unknown``.
        base_model: Hub id of the weights, instead of the source's.
        repo_id: OWNER/NAME for the card's snippets.
        dataset_id: Hub id of the data that the weights were trained on.

    Returns:
        ``output`` and the largest difference of the reloaded logits.

    Raises:
        IEBNZooError: It cannot be written, or the reload differs.
    """
    output = Path(output)
    checkpoint = dict(arch=conversion.arch, model_args=conversion.model_args, data_config=source.data_config,
                      label_names=source.label_names, epoch=-1)
    facts = _facts(conversion, source, checkpoint, dataset_id)
    license = license or source.license or (facts.license if source.run is not None else None)
    report = _report(conversion, facts, base_model or source.base_model)
    with new_directory(output) as made:
        write_model(made, checkpoint, conversion.model, license)
        if isinstance(conversion.report, FoldReport):
            conversion.report.write_csv(made / 'fold_report.csv')
            from iebn_zoo.plots.fold_report import draw_gates  # matplotlib takes its time to import
            draw_gates(conversion.report, made / 'gates.png')
        name = FOLD_REPORT if isinstance(conversion.report, FoldReport) else CONVERSION_REPORT
        write_text(made / name, json.dumps(report, indent=2, allow_nan=False) + '\n')
        write_text(made / 'README.md', make_conversion_card(facts, report, license or UNKNOWN, repo_id))
        write_golden(made, conversion.model, source.data_config, source.label_names)  # last: it binds the rest
        difference = reload_fresh(made)
    return output, difference


def _facts(conversion: Conversion, source: Source, checkpoint: Dict[str, Any], dataset_id: Optional[str]) -> Facts:
    # of a run's files only what they say of the data; the null device holds none
    facts = gather(source.run or Path(os.devnull), checkpoint, conversion.model, False, dataset_id)
    known = source.run is not None or dataset_id is not None
    return facts if known else replace(facts, dataset_name='that of the source, not known here')


def _report(conversion: Conversion, facts: Facts, base_model: Optional[str]) -> Dict[str, Any]:
    versions = dict(iebn_zoo=__version__, timm=timm.__version__, torch=torch.__version__)
    return {**conversion.figures, 'base_model': base_model, 'parameters': facts.parameters,
            'gated_channels': facts.gates, 'macs': facts.macs, 'versions': versions}
