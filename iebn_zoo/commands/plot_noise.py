"""``iebn-zoo plot-noise``: accuracy and batch noise of several runs in one picture, BN beside IEBN."""
import argparse
from typing import Optional, Sequence

from iebn_zoo.plots.noise import KIND, plot_runs
from iebn_zoo.studies.noise.runs import read_run
from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.results import check_picture


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description='Draw runs together: top-1 per epoch (with --model-ema that of the EMA weights), and where they '
                    'were trained with --batch-noise, the batch noise per epoch and per layer. Colours tell networks, '
                    'line styles attacks.')
    parser.add_argument('runs', type=expanded, nargs='+', metavar='RUN', help='directory of a run')
    parser.add_argument('-o', '--output', type=expanded, required=True, metavar='PNG', help='PNG to write')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo plot-noise``."""
    args = build_parser().parse_args(argv)
    check_picture('--output', args.output, KIND)
    plot_runs([read_run(run) for run in args.runs], args.output)
    return 0
