"""The flags of ``compare``, and those it hands on to ``train``."""
import argparse
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.input_size import settle_input_size
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.training.run.resume import recipe_changes
from iebn_zoo.util.command_line.flags import add_config, expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.errors import UsageError

OWN = ('model', 'seed', 'output', 'resume', 'overwrite', 'config', 'data_dir', 'stop_after')


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = Parser(
        description='Train every model with every seed by one recipe, each run a process of iebn-zoo train in '
        'DIR/MODEL/seedN, and write results.csv, results.md, runs.csv and compare.png. The same command continues a '
        'grid that was interrupted and skips finished runs.',
        epilog='Flags behind -- go to train: compare ... -- --epochs 2 --dataset torch/cifar100')
    add_config(parser)
    parser.add_argument('--model', metavar='NAME', help='network to build with each of --norms, such as resnet20_cifar')
    parser.add_argument('--norms', nargs='+', metavar='NORM', help='norms to build it with: bn, se, iebn')
    parser.add_argument('--models', nargs='+', metavar='NAME', help='names of models, instead of --model and --norms')
    parser.add_argument('--arm', nargs='+', action='append', metavar='WORD', help='NAME MODEL [KEY=VALUE ...], once '
                        'per arm: the name of its directory and row, a registered model, and arguments of this model '
                        'only; instead of --model, --norms and --models')
    parser.add_argument('--baseline', metavar='NAME', help='arm or model that the others are compared with: their '
                        "difference to it with Welch's 95 %% interval. It may be an arm of an earlier call (default: "
                        'baseline in experiment.yaml of --output, or bn)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N',
                        help='seeds of the runs of each arm')
    parser.add_argument('--data-dir', type=expanded, metavar='DIR', help='images, as in train')
    parser.add_argument('--output', type=expanded, metavar='DIR', help='directory of the grid')
    parser.add_argument('--jobs', type=int, default=1, metavar='N',
                        help='runs at once; they share the CPU cores, or the GPU')
    parser.add_argument('--stop-after', type=float, metavar='MINUTES', help='stop all runs then, each with a '
                        'checkpoint, and exit with code 75; the same command continues')
    parser.add_argument('--mps', action='store_true', help="run the runs of one GPU under NVIDIA's Multi-Process "
                        'Service, which lets their kernels run at the same time; without it they take turns')
    parser.add_argument('--report', action='store_true', help='write the tables and the picture of the runs that lie '
                        'in --output, from their logs, and train nothing')
    parser.add_argument('--test', action='store_true', help='measure the last and the best epoch of each run on the '
                        'test split as well: for recipes that hold training images out')
    return parser


def parse(argv: Sequence[str]) -> Tuple[argparse.Namespace, List[str]]:
    """Parse the flags of compare; return them and the words behind ``--``.

    Raises:
        UsageError: A flag is missing, or a number is out of range.
    """
    argv = list(argv)
    cut = argv.index('--') if '--' in argv else len(argv)
    args, rest = build_parser().parse_args(argv[:cut]), argv[cut + 1:]
    for name in ('output',) if args.report else ('data_dir', 'output'):
        if not getattr(args, name):
            raise UsageError(f"no --{name.replace('_', '-')} given.\nExpected at least --data-dir and --output, and "
                             f'--model with --norms, --models, or --arm; or --report and --output.')
    if args.jobs < 1:
        raise UsageError(f'--jobs is {args.jobs}, expected at least 1.')
    check_limits(args)
    for name in ('seeds', 'norms', 'models'):
        values = getattr(args, name) or []
        if len(set(values)) < len(values):
            raise UsageError(f'--{name} {" ".join(map(str, values))}: a value stands there twice.\nGive each once.')
    if min(args.seeds) < 0:
        raise UsageError(f'--seeds has {min(args.seeds)}, expected at least 0.')
    return args, rest


def train_flags(args: argparse.Namespace, rest: Sequence[str]) -> List[str]:
    """Return the flags of ``train`` that all runs share."""
    return [*(['--config', args.config] if args.config else []), '--data-dir', args.data_dir, *rest]


def resolve(args: argparse.Namespace, rest: Sequence[str]) -> argparse.Namespace:
    """Resolve the flags of ``train`` as every run will have them.

    Raises:
        UsageError: ``rest`` names a flag that compare sets itself, the recipe is wrong, or a value is out of range.
    """
    parser = train_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given = vars(parser.parse_args(list(rest)))
    clash = [name for name in OWN if name in given]
    if clash:
        raise UsageError(f"--{clash[0].replace('_', '-')} behind --: compare sets it for each run.\n"
                         f'Expected other flags of train there; see compare --help for its own.')
    resolved = parse_with_recipe(train_parser(), train_flags(args, rest))
    check_limits(resolved)
    settle_input_size(resolved)
    return resolved


def recipe_of(resolved: argparse.Namespace) -> Dict[str, Any]:
    """Return the flags that all runs of a grid share, with the place of the data."""
    shared = {k: v for k, v in vars(resolved).items() if k not in OWN}
    # as the file will give it back: YAML knows no tuples
    return yaml.safe_load(yaml.safe_dump(dict(shared, data=os.path.abspath(resolved.data_dir)), sort_keys=False))


def shared_flags(args: argparse.Namespace) -> Dict[str, Any]:
    """Return the flags of a run that are the same in all runs of its grid, without the place of the data."""
    return {k: v for k, v in vars(args).items() if k not in (*OWN, 'model_kwargs')}


def with_defaults(args: Mapping[str, Any]) -> argparse.Namespace:
    """Return the flags of args.yaml; those that the run does not know yet count as being at today's defaults."""
    return argparse.Namespace(**{**vars(train_parser().parse_args([])), **args})


def recipe_difference(old: Dict[str, Any], new: Dict[str, Any]) -> Optional[str]:
    """Return ``lr: 0.1 -> 0.05, ...`` for the flags that change the computation, or None.

    Args:
        old: Of the grid; a flag that it lacks counts as being at its default.
        new: Of this call.
    """
    return ', '.join(recipe_changes(old, new, vars(train_parser().parse_args([])))) or None
