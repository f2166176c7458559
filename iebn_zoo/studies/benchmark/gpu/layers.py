"""Kernel times of layers: forward, backward and inference of every variant, beside a copy of the same bytes."""
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
from torch import Tensor

from iebn_zoo.studies.benchmark.gpu.clock import Clock, Replay, capture, shared_pool, warm_up
from iebn_zoo.studies.benchmark.gpu.parts import Case
from iebn_zoo.studies.benchmark.measure import Measured, failure_kept_in, no_garbage_collection, release_memory, rotated
from iebn_zoo.studies.benchmark.settings import Setting
from iebn_zoo.studies.benchmark.steps import LayerStep
from iebn_zoo.studies.benchmark.variants import is_gated
from iebn_zoo.util.errors import IEBNZooError

PHASES = {'train': ('forward', 'backward'), 'infer': ('infer',)}
# reads and writes of the whole tensor that a norm cannot do without: (ungated, gated). An inference with a gate reads
# once more, because the gate needs the mean of what it scales
PASSES = {'forward': (3, 3), 'backward': (5, 5), 'infer': (2, 3)}
# a wrong replay is far off; the tolerance allows for narrow types and another order of sums
REPLAY_TOLERANCE = 2e-2


class LayerKernels:
    """One variant of a layer, captured.

    Args:
        variant: One of ``variants.LAYERS``.
        case: Shape, seed.
        setting: Dtype, layout, compiler.
        mode: ``train`` (phases forward, backward) or ``infer``.
        device: Where.

    Raises:
        IEBNZooError: A replay does not compute what the eager call computes.
    """

    def __init__(self, variant: str, case: Case, setting: Setting, mode: str, device: torch.device) -> None:
        torch.manual_seed(case.seed)
        self.step = LayerStep(variant, case.shape, setting, mode, device)
        self.output: Any = None  # of the captured forward; on the CPU None, and a backward makes its own
        if mode == 'infer':
            warm_up(self.infer, device)
            self.eager: Dict[str, Callable[[], Any]] = {'infer': self.infer}
            self.replays: Dict[str, Replay] = {'infer': capture(self.infer, device)}
        else:
            warm_up(self.backward, device)
            self.eager = {'forward': self.forward, 'backward': self.backward}
            pool = shared_pool(device)
            forward = capture(self.forward, device, pool)
            # the backward is captured on the forward's own tensors, as torch.cuda.make_graphed_callables does it
            self.output = forward.result if device.type == 'cuda' else None
            self.replays = {'forward': forward, 'backward': capture(self.backward, device, pool)}
            self.output = None
            # kept with its autograd graph, the output would have an eager backward wait for the stream of the capture
            forward.result = forward.result.detach()
        for phase, replay in self.replays.items():
            _check_replay(variant, phase, replay, self.eager[phase])

    def forward(self) -> Tensor:
        step = self.step
        with step.setting.autocast(step.device, cache=False):
            return step.forward(step.x)

    def backward(self) -> Tuple[Tensor, ...]:
        step = self.step
        y = self.forward() if self.output is None else self.output
        return torch.autograd.grad(y, [step.x, *step.layer.parameters()], step.dy)

    def infer(self) -> Tensor:
        step = self.step
        with torch.inference_mode(), step.setting.autocast(step.device, cache=False):
            return step.forward(step.x)

    def host_seconds(self, phase: str, clock: Clock) -> float:
        """Measure the time of issuing a phase without a graph. The forward before a backward is not counted."""
        if phase != 'backward':
            return clock.host_seconds(self.eager[phase])
        self.output = self.forward()
        try:
            return clock.host_seconds(self.backward)
        finally:
            self.output = None


def _check_replay(variant: str, phase: str, replay: Replay, eager: Callable[[], Any]) -> None:
    replay()
    captured, expected = ([r] if isinstance(r, Tensor) else list(r) for r in (replay.result, eager()))
    for actual, exact in zip(captured, expected, strict=True):
        actual, exact = actual.detach().float(), exact.detach().float()
        error = (torch.linalg.vector_norm(actual - exact) / torch.linalg.vector_norm(exact).clamp_min(1e-30)).item()
        if not error <= REPLAY_TOLERANCE:  # NaN too
            raise IEBNZooError(
                f'the CUDA graph is wrong, so it is not timed: {variant}, {phase} is off by {error:.1e} of the eager '
                f'call, tolerance {REPLAY_TOLERANCE:.0e}.')


def measure_layer(case: Case, setting: Setting, device: torch.device, clock: Clock) -> Iterator[Dict[str, Any]]:
    """Yield the records of a layer: of each variant and phase, and of the copies that they are compared with.

    In each round every variant gives one sample, in rotated order.
    """
    for mode, phases in PHASES.items():
        release_memory(device)
        kernels: Dict[str, LayerKernels] = {}
        results = {(v, p): Measured() for v in case.all_variants for p in phases}
        host: Dict[Tuple[str, str], List[float]] = {key: [] for key in results}
        for variant in case.all_variants:
            with failure_kept_in(results[variant, phases[0]]):
                kernels[variant] = LayerKernels(variant, case, setting, mode, device)
            for phase in phases:
                results[variant, phase].error = results[variant, phases[0]].error
        size = next(iter(kernels.values())).step.x.nbytes if kernels else 0
        copies = {passes: _copy(passes * size, device) for p in phases for passes in PASSES[p]} if kernels else {}
        copied: Dict[int, List[float]] = {passes: [] for passes in copies}
        for i in range(case.rounds):
            for passes, copy in copies.items():
                copied[passes].append(clock.kernel_seconds(copy))
            for variant in rotated(list(kernels), i):
                for phase in phases:
                    key = variant, phase
                    with failure_kept_in(results[key]), no_garbage_collection():
                        if not results[key].error:
                            results[key].seconds.append(clock.kernel_seconds(kernels[variant].replays[phase]))
                            host[key].append(kernels[variant].host_seconds(phase, clock))
        execution = 'graph' if setting.backend is None else 'compile'
        for (variant, phase), measured in results.items():
            passes = PASSES[phase][is_gated(variant)]
            yield case.record(phase, execution, variant, seconds=measured.seconds, host_seconds=host[variant, phase],
                              error=measured.error, bytes=passes * size, copy_seconds=copied.get(passes, []))
        for phase in phases if case.reports_copies and kernels else ():
            for passes in sorted(set(PASSES[phase])):
                yield case.record(phase, execution, f'copy{passes}', seconds=copied[passes], bytes=passes * size)


def _copy(num_bytes: int, device: torch.device) -> Replay:
    """Capture a copy that reads and writes ``num_bytes`` in all."""
    source = torch.zeros(max(num_bytes // 8, 1), device=device)  # float32, and each byte is moved twice
    target = torch.empty_like(source)

    def copy() -> Tensor:
        return target.copy_(source)

    warm_up(copy, device)
    return capture(copy, device)
