"""The steps that are timed: a layer's or a model's, in training or in inference."""
from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iebn_zoo.studies.benchmark.settings import Setting
from iebn_zoo.studies.benchmark.variants import LAYERS, make_model

Shape = Tuple[int, int, int, int]


class LayerStep:
    """``train``: forward and backward to the input and all parameters. ``infer``: forward in inference mode.

    Args:
        variant: One of ``LAYERS``.
        shape: (B, C, H, W) of the input.
        setting: Input dtype and layout, compiler.
        mode: ``train`` or ``infer``.
        device: Where.
    """

    def __init__(self, variant: str, shape: Shape, setting: Setting, mode: str, device: torch.device) -> None:
        self.setting, self.train, self.device = setting, mode == 'train', device
        self.layer = LAYERS[variant](shape[1]).to(device).train(self.train)
        self.forward = setting.prepare(self.layer)
        self.x, self.dy = (
            torch.randn(shape, device=device).to(setting.torch_dtype, memory_format=setting.memory_format)
            for _ in range(2))
        self.x.requires_grad_(self.train)

    def __call__(self) -> None:
        self.setting.begin_step()
        if self.train:
            with self.setting.autocast(self.device):
                y = self.forward(self.x)
            # not backward(), which would also add to gradients that are there already
            torch.autograd.grad(y, [self.x, *self.layer.parameters()], self.dy)
        else:
            with torch.inference_mode(), self.setting.autocast(self.device):
                self.forward(self.x)

    def resident(self) -> Iterator[Tensor]:
        """Yield what is in memory between two steps."""
        yield from self.layer.state_dict().values()
        yield self.x
        if self.train:
            yield self.dy


class ModelStep:
    """``train``: forward, cross-entropy, backward, SGD with momentum. ``infer``: forward in inference mode.

    Args:
        variant: One of ``MODELS``.
        name: One of ``base_names()``.
        shape: (B, C, H, W) of the images.
        setting: Autocast, layout, compiler.
        mode: ``train`` or ``infer``.
        device: Where.
    """

    def __init__(
            self, variant: str, name: str, shape: Shape, setting: Setting, mode: str, device: torch.device,
    ) -> None:
        self.setting, self.train, self.device = setting, mode == 'train', device
        model = make_model(variant, name)
        # torch's stub has no memory_format
        self.model = model.to(device, memory_format=setting.memory_format)  # pyright: ignore[reportCallIssue]
        self.model.train(self.train)
        self.forward = setting.prepare(self.model)
        self.images = torch.randn(shape, device=device).contiguous(memory_format=setting.memory_format)
        assert isinstance(model.num_classes, int)
        self.labels = torch.randint(model.num_classes, shape[:1], device=device)
        # the rate is low so that random labels do not make the weights diverge: NaN and denormals change the speed
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> None:
        self.setting.begin_step()
        if self.train:
            self.forward_backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        else:
            self.infer()

    def forward_backward(self, cache: bool = True) -> Tensor:
        """Return the loss; the gradients are in the parameters. ``cache`` as in ``Setting.autocast``."""
        with self.setting.autocast(self.device, cache):
            loss = F.cross_entropy(self.forward(self.images), self.labels)
        loss.backward()
        return loss.detach()

    def infer(self, cache: bool = True) -> Tensor:
        """Return the logits. ``cache`` as in ``Setting.autocast``."""
        with torch.inference_mode(), self.setting.autocast(self.device, cache):
            return self.forward(self.images)

    def resident(self) -> Iterator[Tensor]:
        """Yield what is in memory between two steps: weights, statistics, optimizer state, images."""
        yield from self.model.state_dict().values()
        for state in self.optimizer.state.values():
            yield from (v for v in state.values() if isinstance(v, Tensor))
        yield self.images
        yield self.labels
