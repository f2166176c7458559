"""Forward and backward of a training step as one CUDA graph.

A step of a CIFAR network launches thousands of small kernels, and Python takes longer to launch them than the GPU to
run them. A CUDA graph records the launches once. Then each step is one launch of the graph; new images are copied into
the memory of the recorded ones. The optimizer, the average of the weights and clipping stay outside.
"""
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from iebn_zoo._compat import RunningNormBase, has_hooks
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.util.errors import UsageError, first_line

Outputs = Tuple[Tensor, ...]
Recorder = Callable[[Callable[[], Outputs]], Tuple[Callable[[], None], Outputs]]
_WARM_UPS = 3  # steps before the recording: cuDNN chooses its algorithms, Triton compiles, autograd allocates


@dataclass
class _Recorded:
    images: Tensor
    targets: Tensor
    replay: Callable[[], None]
    outputs: Outputs
    gradients: List[Tuple[nn.Parameter, Tensor]]


class StepGraph:
    """A function of (images, targets) that calls ``backward``, run as a graph with the same bits.

    Args:
        step: (images, targets) -> outputs, detached. It adds to ``grad`` of the parameters of ``model``, and does not
            look at the values of tensors.
        model: The network. Its buffers and the random numbers are put back after the steps that warm up.
        record: Records a step without running it, and returns a function that runs it, and the outputs. The default
            needs CUDA; tests on the CPU give another one.
    """

    def __init__(
            self, step: Callable[[Tensor, Tensor], Outputs], model: nn.Module, record: Optional[Recorder] = None,
    ) -> None:
        self.step, self.model = step, model
        self.record = _record if record is None else record
        self.recorded: Dict[Any, _Recorded] = {}

    def __call__(self, images: Tensor, targets: Tensor, accumulate: bool = False) -> Outputs:
        """Run the step.

        Args:
            images: (B, C, H, W). Each new shape, memory format or kind of targets is recorded anew.
            targets: (B,) class indices or (B, classes) probabilities.
            accumulate: Add to the gradients, as autograd does; otherwise replace them.

        Returns:
            What ``step`` returns, in tensors that the next call overwrites.

        Raises:
            UsageError: The step cannot be recorded.
        """
        key = (images.shape, images.stride(), images.dtype, targets.shape, targets.dtype)
        if key not in self.recorded:
            self.recorded[key] = self._make(images, targets)
        found = self.recorded[key]
        found.images.copy_(images)
        found.targets.copy_(targets)
        found.replay()
        for parameter, gradient in found.gradients:
            if not accumulate:
                parameter.grad = gradient
            elif parameter.grad is None:
                parameter.grad = gradient.clone()  # the next batch overwrites this gradient
            else:
                parameter.grad.add_(gradient)
        return found.outputs

    def _make(self, images: Tensor, targets: Tensor) -> _Recorded:
        # preserve_format keeps the strides, which the key holds
        images, targets = images.clone(), targets.clone()
        kept = [(p, p.grad) for p in self.model.parameters()]
        self._warm_up(images, targets)
        self._clear()
        try:
            replay, outputs = self.record(lambda: self.step(images, targets))
        except RuntimeError as e:
            raise UsageError(f'--cuda-graph: the training step of {type(self.model).__name__} cannot be recorded: '
                             f'{first_line(e)}\nLeave out --cuda-graph.') from e
        gradients = [(p, p.grad) for p in self.model.parameters() if p.grad is not None]
        for parameter, gradient in kept:
            parameter.grad = gradient
        return _Recorded(images, targets, replay, outputs, gradients)

    def _warm_up(self, images: Tensor, targets: Tensor) -> None:
        buffers = [(b, b.clone()) for b in self.model.buffers()]
        device = images.device
        if device.type != 'cuda':
            state = torch.get_rng_state()
            self._steps(images, targets)
            torch.set_rng_state(state)
        else:
            state = torch.cuda.get_rng_state(device)
            stream = torch.cuda.Stream(device)  # CUDA requires another stream than the default one
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                self._steps(images, targets)
            torch.cuda.current_stream(device).wait_stream(stream)
            torch.cuda.set_rng_state(state, device)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

    def _steps(self, images: Tensor, targets: Tensor) -> None:
        for _ in range(_WARM_UPS):
            self._clear()
            self.step(images, targets)

    def _clear(self) -> None:
        # without gradients, the recorded backward writes them and does not add
        for parameter in self.model.parameters():
            parameter.grad = None


def _record(step: Callable[[], Outputs]) -> Tuple[Callable[[], None], Outputs]:
    graph = torch.cuda.CUDAGraph()
    # thread_local: the thread that pins the loader's next batch may call CUDA during the recording
    with torch.cuda.graph(graph, capture_error_mode='thread_local'):
        outputs = step()
    return graph.replay, outputs


def check_step_graph(args: TrainSettings, model: nn.Module, device: torch.device, processes: int) -> None:
    """Check that the training step can be recorded as a graph.

    Raises:
        UsageError: It cannot; the message says why.
    """
    reason = next((text for applies, text in (
        (device.type != 'cuda', f'the device is {device}, and CUDA graphs need a CUDA GPU'),
        (processes > 1, f'the gradients of {processes} processes are exchanged during the step'),
        (bool(args.torchcompile or args.torchcompile_mode), '--torchcompile launches by itself; '
         '--torchcompile-mode reduce-overhead records graphs'),
        (args.grad_checkpointing, '--grad-checkpointing reads the random numbers of the GPU during the step'),
        (_momentum_none(model), 'a norm with momentum None divides by a number of batches that Python must read'),
        (_has_hooks(model), 'the model has hooks, which are Python code and would run only once'),
    ) if applies), None)
    if reason is not None:
        raise UsageError(f'--cuda-graph: {reason}.\nLeave out --cuda-graph.')


def _momentum_none(model: nn.Module) -> bool:
    return any(isinstance(m, RunningNormBase) and m.momentum is None for m in model.modules())


def _has_hooks(model: nn.Module) -> bool:
    return any(has_hooks(m) for m in model.modules())
