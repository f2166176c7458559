"""Runs that were trained under noise, as ``plot-noise`` shows them."""
from pathlib import Path
from typing import Any, Mapping, Union

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
    return NoisyRun(model, attack_words(args, evaluation=True) or 'no attack', rows, read_layers(run))


def attack_words(args: Mapping[str, Any], evaluation: bool = False) -> str:
    """Name the noise attacks on training by the flags of ``train``, as in ``Na 0.5, Nb 0.5``; empty without one.

    Args:
        args: The flags.
        evaluation: Say too that evaluation was attacked, if it was.
    """
    attacks = []
    if args.get('norm_noise'):
        na, nb = args['norm_noise']
        attacks.append(f'Na {na:g}, Nb {nb:g}' + (' in eval too' if evaluation and args.get('norm_noise_eval') else ''))
    if args.get('mix_dataset'):
        other = args.get('mix_dataset_name') or args['mix_dataset']
        attacks.append(f"{args['mix_count']} of {Path(other).name}")
    return ' and '.join(attacks)
