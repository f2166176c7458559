"""Whole training steps and inferences of networks: eager, in a CUDA graph, under torch.compile."""
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Union

import torch
from torch import Tensor

from iebn_zoo.studies.benchmark.gpu.clock import Clock, Replay, capture, shared_pool, warm_up
from iebn_zoo.studies.benchmark.gpu.parts import Case
from iebn_zoo.studies.benchmark.measure import (
    MIN_SAMPLE_S,
    Measured,
    failure_kept_in,
    no_garbage_collection,
    release_memory,
    rotated,
    seconds_per_step,
    typical_seconds,
)
from iebn_zoo.studies.benchmark.memory import peak_growth, resident_bytes
from iebn_zoo.studies.benchmark.settings import Setting
from iebn_zoo.studies.benchmark.steps import ModelStep
from iebn_zoo.util.errors import IEBNZooError

MODES = ('train', 'infer')
REPLAY_TOLERANCE = 2e-2  # of the loss, and of the norm of the logits
MAX_REPEATS = 20


class GraphedStep:
    """``ModelStep`` with its forward and backward captured in a CUDA graph; the optimizer's step runs outside of it.

    Args:
        step: What to capture.
        pool: Of ``shared_pool``.

    Raises:
        IEBNZooError: A replay does not compute what the eager step computes.
    """

    def __init__(self, step: ModelStep, pool: Any = None) -> None:
        self.step = step
        work = self._forward_backward if step.train else self._infer
        warm_up(work, step.device)
        expected = work().float()
        self.replay: Replay = capture(work, step.device, pool)
        self.replay()
        error = (torch.linalg.vector_norm(self.replay.result.float() - expected)
                 / torch.linalg.vector_norm(expected).clamp_min(1e-30)).item()
        if not error <= REPLAY_TOLERANCE:  # NaN too
            raise IEBNZooError(f'the CUDA graph is wrong, so it is not timed: it is off by {error:.1e} of the eager '
                               f'step, tolerance {REPLAY_TOLERANCE:.0e}.')

    def __call__(self) -> None:
        self.replay()
        if self.step.train:
            self.step.optimizer.step()

    def _forward_backward(self) -> Tensor:
        # with no gradients left, the backward writes new ones in the memory of the graph; replays overwrite them
        self.step.optimizer.zero_grad(set_to_none=True)
        return self.step.forward_backward(cache=False)

    def _infer(self) -> Tensor:
        return self.step.infer(cache=False)


AnyStep = Union[ModelStep, GraphedStep]


def build(variant: str, case: Case, setting: Setting, mode: str, device: torch.device) -> ModelStep:
    """Build a variant's step with the same weights and images every time."""
    torch.manual_seed(case.seed)
    return ModelStep(variant, case.name, case.shape, setting, mode, device)


def measure_model(
        case: Case, setting: Setting, device: torch.device, clock: Clock, executions: Sequence[str],
) -> Iterator[Dict[str, Any]]:
    """Yield records of a network, eager and in a CUDA graph.

    Args:
        case: Network, variants, rounds.
        setting: Dtype, layout; no compiler.
        device: Where.
        clock: Of host times.
        executions: ``eager``, ``graph``.
    """
    for mode in MODES:
        release_memory(device)
        errors = {variant: Measured() for variant in case.all_variants}
        steps: Dict[str, ModelStep] = {}
        peaks: Dict[str, int] = {}
        for variant, outcome in errors.items():
            with failure_kept_in(outcome):
                step = build(variant, case, setting, mode, device)
                for _ in range(3):
                    step()
                peaks[variant] = resident_bytes(step.resident()) + peak_growth(step, device)
                steps[variant] = step
        for execution in executions:
            ready: Dict[str, AnyStep] = {}
            pool = shared_pool(device)  # activations of all variants at once would be too much
            for variant, step in steps.items():
                with failure_kept_in(errors[variant]):
                    ready[variant] = GraphedStep(step, pool) if execution == 'graph' else step
            yield from sample(case, mode, execution, ready, errors, device, clock,
                              peaks if execution == 'eager' else {})
            ready.clear()
        steps.clear()


def sample(
        case: Case, mode: str, execution: str, steps: Mapping[str, Callable[[], None]], outcomes: Dict[str, Measured],
        device: torch.device, clock: Clock, peaks: Dict[str, int],
) -> Iterator[Dict[str, Any]]:
    """Time ``steps`` in rounds, every variant once per round in rotated order, and yield their records."""
    seconds: Dict[str, List[float]] = {v: [] for v in outcomes}
    host: Dict[str, List[float]] = {v: [] for v in outcomes}
    repeats: Dict[str, int] = {}
    for variant, step in steps.items():
        with failure_kept_in(outcomes[variant]):
            repeats[variant] = min(MAX_REPEATS, int(MIN_SAMPLE_S / typical_seconds(step, device)) + 1)
    for i in range(case.rounds):
        for variant in rotated(list(repeats), i):
            with failure_kept_in(outcomes[variant]), no_garbage_collection():
                if not outcomes[variant].error:
                    seconds[variant].append(seconds_per_step(steps[variant], repeats[variant], device))
                    host[variant].append(clock.host_seconds(steps[variant]))
    for variant, outcome in outcomes.items():
        yield case.record(mode, execution, variant, seconds=seconds[variant] if not outcome.error else [],
                          host_seconds=host[variant], error=outcome.error, peak_bytes=peaks.get(variant))


class CompiledModel:
    """A network under torch.compile in both modes. It is compiled when it is built and timed later.

    Args:
        case: Of one variant.
        setting: With a compiler.
        device: Where.
    """

    def __init__(self, case: Case, setting: Setting, device: torch.device) -> None:
        self.case, self.device = case, device
        (self.variant,) = case.variants
        self.outcomes = {mode: Measured() for mode in MODES}
        self.steps: Dict[str, Callable[[], None]] = {}
        for mode in MODES:
            with failure_kept_in(self.outcomes[mode]):
                step = build(self.variant, case, setting, mode, device)
                for _ in range(4):  # reduce-overhead: the first warms up, the second is captured
                    step()
                self.steps[mode] = step

    def measure(self, clock: Clock) -> Iterator[Dict[str, Any]]:
        """Yield the records of both modes."""
        for mode, outcome in self.outcomes.items():
            steps = {self.variant: self.steps[mode]} if mode in self.steps else {}
            yield from sample(self.case, mode, 'compile', steps, {self.variant: outcome}, self.device, clock, {})
