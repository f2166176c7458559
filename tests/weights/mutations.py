"""Mutates files of weights and exports, and lets every reader open them.

    python -m tests.weights.mutations --count 10000 --log scripts/benchmarks/weights_mutations.txt

Each case is drawn from a seed: a kind of file, a mutation of its bytes, tensors, names, types, fields or JSON. A reader
may refuse it by an IEBNZooError of at most three lines, or open what the file says; anything else is a finding:

- crash: another exception;
- hang: more than ``--limit`` seconds;
- altered: a checkpoint with a checksum was opened with another meaning than the one it was written with;
- misread: what was opened is not what an independent reader finds in the file;
- impossible: weights that are not finite, or a variance below zero.

An export that was opened with another meaning is counted apart: its golden.safetensors tells, which ``iebn_zoo.verify``
looks at. ``PROVERS`` holds such checks: functions of the directory that raise where it is not what was exported.
"""
import argparse
import collections
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import timm
import torch

import iebn_zoo
from iebn_zoo.util.errors import IEBNZooError
from tests.weights.mutation_cases import CASES, Export

PROVERS: List[Callable[[Path], Any]] = [iebn_zoo.verify]


class Hang(Exception):
    """A case took too long."""


def run(count: int, seed: int = 0, limit: float = 5.) -> Tuple[collections.Counter, List[str]]:
    """Open ``count`` mutations with every reader of their kind.

    Args:
        count: Of mutations.
        seed: Of the draw; case i depends on the seed and i alone.
        limit: Seconds that one opening may take.

    Returns:
        Outcomes by kind, and the findings, one a line.
    """
    outcomes: collections.Counter = collections.Counter()
    findings: List[str] = []

    def alarm(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with tempfile.TemporaryDirectory() as temp:
            cases = []
            for kind in CASES:
                (Path(temp) / kind.__name__).mkdir()
                cases.append(kind(Path(temp) / kind.__name__))
            for i in range(count):
                rng = random.Random(f'{seed} {i}')
                case: Any = rng.choice(cases)
                name = type(case).__name__
                try:
                    path, expected = case.make(rng)
                except Exception:  # torch, safetensors or JSON cannot write this one
                    outcomes[name, 'not written'] += 1
                    continue
                for reader, call in case.readers(path).items():
                    where = f'case {i} ({name}, {reader})'
                    signal.setitimer(signal.ITIMER_REAL, limit)
                    try:
                        opened = call()
                    except IEBNZooError as e:
                        outcomes[name, 'refused'] += 1
                        if not 1 < len(str(e).splitlines()) <= 3 or len(str(e)) > 1000:
                            findings.append(f'{where}: message: {str(e)[:300]!r}')
                        continue
                    except Hang:
                        findings.append(f'{where}: hang')
                        continue
                    except Exception as e:
                        findings.append(f'{where}: crash: {type(e).__name__}: {str(e)[:200]!r} '
                                        f'at {traceback.extract_tb(e.__traceback__)[-1][:2]}')
                        continue
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    outcomes[name, 'opened'] += 1
                    findings += [f'{where}: {kind}: {what}' for kind, what in case.judge(path, expected, opened)]
                    meaning = case.changed(path, opened) if isinstance(case, Export) else None
                    if meaning:
                        outcomes[name, f'opened with other {meaning}: for verify'] += 1
                        for prover in PROVERS:
                            try:
                                prover(path)
                                findings.append(f'{where}: {prover.__name__} did not find other {meaning}')
                            except IEBNZooError:
                                outcomes[name, f'found by {prover.__name__}'] += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    return outcomes, findings


def main(argv: Optional[List[str]] = None) -> int:
    """Run, print, and exit with 1 where there are findings."""
    parser = argparse.ArgumentParser(description='Mutate files of weights and open them with every reader.')
    parser.add_argument('--count', type=int, default=10000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--limit', type=float, default=5., help='seconds that one opening may take')
    parser.add_argument('--log', help='file to write the result to')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    outcomes, findings = run(args.count, args.seed, args.limit)
    lines = [f'{args.count} mutations, seed {args.seed}, limit {args.limit:g} s an opening; iebn-zoo '
             f'{iebn_zoo.__version__}, timm {timm.__version__}, torch {torch.__version__}; '
             f'{time.perf_counter() - started:.0f} s']
    lines += [f'{kind:<12} {what:<45} {n:>7}' for (kind, what), n in sorted(outcomes.items())]
    lines += [f'findings: {len(findings)}', *findings]
    print('\n'.join(lines))
    if args.log:
        Path(args.log).write_text('\n'.join(lines) + '\n')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
