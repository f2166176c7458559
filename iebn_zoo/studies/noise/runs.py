"""Runs that were trained under noise, as ``plot-noise`` shows them."""
from pathlib import Path
from typing import Any, Dict, Union

import yaml

from iebn_zoo.plots.noise import NoisyRun
from iebn_zoo.studies.noise.log import read_layers
from iebn_zoo.training.run.records import ARGS, SUMMARY, read_summary
from iebn_zoo.util.errors import UsageError


def read_run(directory: Union[str, Path]) -> NoisyRun:
    """Read args.yaml, summary.csv and batch_noise.csv of a run.

    Raises:
        UsageError: The directory holds no run, or the run has no finished epoch.
    """
    run = Path(directory)
    for name in (ARGS, SUMMARY):
        if not (run / name).is_file():
            raise UsageError(f'{run} has no {name}.\nExpected the directory of a run with at least one epoch.')
    try:
        args = yaml.safe_load((run / ARGS).read_text(encoding='utf-8'))
        model, rows = args['model'], read_summary(run)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as e:
        raise UsageError(f'cannot read {run}: {type(e).__name__}.\nExpected what training writes.') from e
    return NoisyRun(model, _attack(args), rows, read_layers(run))


def _attack(args: Dict[str, Any]) -> str:
    attacks = []
    if args.get('norm_noise'):
        na, nb = args['norm_noise']
        attacks.append(f'Na {na:g}, Nb {nb:g}' + (' in eval too' if args.get('norm_noise_eval') else ''))
    if args.get('mix_dataset'):
        attacks.append(f"{args['mix_count']} of {Path(args['mix_dataset']).name}")
    return ' and '.join(attacks) or 'no attack'
