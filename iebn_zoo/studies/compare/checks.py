"""Checks that each run counts once, and that all runs of an arm are of one network.

The mean of an arm stands for one network that was trained with several seeds. A run of another network falsifies it,
and a run that is counted twice makes n larger and the spread smaller than they are.
"""
import statistics
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from iebn_zoo.studies.compare.grid import Cell, described
from iebn_zoo.util.errors import UsageError


def check_grid(cells: Sequence[Cell]) -> None:
    """Check the runs of one grid: the seeds of their directories, the networks of their arms, and that none is a copy.

    A log may lie in two arms: one network under two names gives the same bits.

    Args:
        cells: The runs, of which some may not have begun.

    Raises:
        UsageError: A run is of another seed or network than its place says, or two runs of an arm are the same.
    """
    args = {cell: cell.args() for cell in cells}
    for cell in cells:
        check_seed(cell.run, args[cell], cell.seed)
    check_network([cell for cell in cells if 'model' in args[cell]])
    arms: Dict[str, List[Tuple[Cell, Optional[int]]]] = {}
    for cell in cells:
        arms.setdefault(cell.arm.name, []).append((cell, cell.seed))
    for runs in arms.values():
        check_distinct(runs)


def check_seed(run: Path, args: Mapping[str, Any], seed: int) -> None:
    """Check that a run was trained with the seed that the name of its directory says.

    Args:
        run: Directory of the run.
        args: Its flags; empty where they are not known.
        seed: Of the name.

    Raises:
        UsageError: args.yaml says another seed.
    """
    if args.get('seed', seed) != seed:
        raise UsageError(f'{run}: args.yaml says seed {args["seed"]}.\nExpected the seed of the directory\'s name.')


def check_network(cells: Sequence[Cell]) -> None:
    """Check that the runs of each arm are of one model with the same arguments.

    Args:
        cells: Runs of one grid whose network is known.

    Raises:
        UsageError: A run differs from most of the runs of its arm.
    """
    for name in dict.fromkeys(cell.arm.name for cell in cells):
        own = [(cell, _network(cell)) for cell in cells if cell.arm.name == name]
        usual = statistics.mode(network for _, network in own)
        most = next(cell for cell, network in own if network == usual)
        odd = next((cell for cell, network in own if network != usual), None)
        if odd is not None:
            raise UsageError(
                f'{odd.run} holds a run of {_words(odd)}, and other runs of its arm are of {_words(most)}.\n'
                f'Put the runs of each network into an arm of its own.')


def check_distinct(runs: Sequence[Tuple[Cell, Optional[int]]]) -> None:
    """Check that no two runs are of one arm and seed, and that no log is there twice.

    Args:
        runs: Runs of one experiment with their seeds, None where a seed is not known. Some may not have begun.

    Raises:
        UsageError: Two runs are the same.
    """
    places: Dict[Tuple[str, Optional[int]], Path] = {}
    contents: Dict[bytes, Path] = {}
    for cell, seed in runs:
        log = cell.run / cell.summary
        twin = places.setdefault((cell.arm.name, seed), log)
        if twin != log:
            raise UsageError(f'{twin} and {log} are of one arm and seed.\nTake one of them away.')
        twin = contents.setdefault(log.read_bytes(), log) if cell.rows() else log
        if twin != log:
            raise UsageError(f'{twin} and {log} are the same log.\nTake one of them away.')


def _network(cell: Cell) -> Tuple[str, ...]:
    return cell.arm.model, *sorted(f'{key}={value!r}' for key, value in cell.arm.kwargs.items())


def _words(cell: Cell) -> str:
    return described({'model': cell.arm.model, 'model_kwargs': cell.arm.kwargs})
