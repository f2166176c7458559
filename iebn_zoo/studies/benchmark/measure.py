"""Timing in rounds: every variant once a round, so that the drift of a machine's speed meets all of them alike."""
import gc
import math
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Union

import torch

from iebn_zoo.studies.benchmark.machine import synchronize
from iebn_zoo.studies.benchmark.memory import peak_growth, resident_bytes
from iebn_zoo.studies.benchmark.steps import LayerStep, ModelStep

Step = Union[LayerStep, ModelStep]
MIN_SAMPLE_S = 0.02
CALIBRATION_S = 0.1
WARM_UP = 3


@dataclass
class Measured:
    """What became of one variant.

    Args:
        seconds: Of a step, one value a round; empty where it failed.
        peak_bytes: What lies in memory between two steps (weights, optimizer state, input) and what a step needs
            beside it at its worst moment (activations, gradients).
        error: Why it failed, in one line.
    """

    seconds: List[float] = field(default_factory=list)
    peak_bytes: int = 0
    error: Optional[str] = None


def measure(
        builders: Dict[str, Callable[[], Step]],
        rounds: int,
        device: torch.device,
        after_round: Callable[[], object] = lambda: None,
) -> Dict[str, Measured]:
    """Time and peak memory of each variant's step. A variant that fails (out of memory, ...) leaves the others alone.

    In each round every variant gives one sample: as many steps in a row as take at least ``MIN_SAMPLE_S``. The order
    is rotated by one from round to round.

    Args:
        builders: Makes each variant's step.
        rounds: Samples of each variant.
        device: Where the steps run.
        after_round: Called after each round.
    """
    results = {variant: Measured() for variant in builders}
    steps: Dict[str, Step] = {}
    repeats: Dict[str, int] = {}
    release_memory(device)
    torch.compiler.reset()  # what was compiled for an earlier case counts against the limit of recompilations
    for variant, build in builders.items():
        with failure_kept_in(results[variant]):
            step = build()
            for _ in range(WARM_UP):
                step()
            results[variant].peak_bytes = resident_bytes(step.resident()) + peak_growth(step, device)
            repeats[variant] = math.ceil(MIN_SAMPLE_S / typical_seconds(step, device))
            steps[variant] = step
        if results[variant].error:
            step = None
            release_memory(device)
    for i in range(rounds):
        for variant in rotated(list(steps), i):
            with failure_kept_in(results[variant]), no_garbage_collection():
                results[variant].seconds.append(seconds_per_step(steps[variant], repeats[variant], device))
            if results[variant].error:
                del steps[variant]
                release_memory(device)
        after_round()
    return results


def rotated(variants: Sequence[str], by: int) -> List[str]:
    """``variants`` beginning with another one each round, so that no variant always follows the same one."""
    cut = by % len(variants) if variants else 0
    return [*variants[cut:], *variants[:cut]]


def typical_seconds(step: Callable[[], None], device: torch.device) -> float:
    """What a step takes, roughly: from it follows how many steps make a sample."""
    seconds: List[float] = []
    while sum(seconds) < CALIBRATION_S:  # one step may have met with a disturbance
        seconds.append(seconds_per_step(step, 1, device))
    return statistics.median(seconds)


def seconds_per_step(step: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Wall time of ``repeats`` steps in a row, divided by their number."""
    if repeats > 1:
        step()  # brings back what the variant before has pushed out of the caches
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


@contextmanager
def failure_kept_in(result: Measured) -> Iterator[None]:
    """Whatever a variant runs into is its own result, and the other variants go on."""
    try:
        yield
    except Exception as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        result.error = f'{type(e).__name__}: {lines[0] if lines else ""}'[:300]
        result.seconds.clear()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be counted as its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def release_memory(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
