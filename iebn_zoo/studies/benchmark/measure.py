"""Timing in rounds: every variant once per round, so that all variants share the drift of the machine's speed."""
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
    """The samples of one variant.

    Args:
        seconds: Of a step, one value per round; empty if the variant failed.
        peak_bytes: Memory between two steps (weights, optimizer state, input), plus what a step needs beside it at
            most (activations, gradients).
        error: Why the variant failed, in one line.
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
    """Measure time and peak memory of each variant's step. If a variant fails (out of memory, ...), the others go on.

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
    torch.compiler.reset()  # earlier compilations count against the limit of recompilations
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
    """Rotate ``variants`` by the round, so that a variant does not always follow the same one."""
    cut = by % len(variants) if variants else 0
    return [*variants[cut:], *variants[:cut]]


def typical_seconds(step: Callable[[], None], device: torch.device) -> float:
    """Estimate the seconds of a step, from which follows how many steps make a sample."""
    seconds: List[float] = []
    while sum(seconds) < CALIBRATION_S:  # a single step may have been disturbed
        seconds.append(seconds_per_step(step, 1, device))
    return statistics.median(seconds)


def seconds_per_step(step: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Measure the wall time of ``repeats`` steps in a row, divided by their number."""
    if repeats > 1:
        step()  # fills the caches again after the variant before
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


@contextmanager
def failure_kept_in(result: Measured) -> Iterator[None]:
    """Note an exception as the variant's error, so that the other variants go on."""
    try:
        yield
    except Exception as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        result.error = f'{type(e).__name__}: {lines[0] if lines else ""}'[:300]
        result.seconds.clear()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off, which would count as time of a sample."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def release_memory(device: torch.device) -> None:
    """Free the memory that is no longer in use."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
