"""Small networks with the names of the CIFAR framework and of the paper's code, written from their description.

Only what a state dict shows is theirs: the names, the shapes, and what is computed in eval mode.
"""
from typing import Callable, List, Optional, Tuple

import torch
from torch import Tensor, nn

CLASSES = 7
LAYERS = (1, 2, 1)
Norm = Callable[[int], nn.Module]
Shortcut = Optional[Tuple[str, nn.Module]]


class ReferenceNorm(nn.Module):
    """The paper's norm: parameters (1, C, 1, 1), the gate's called *_readjust, statistics on the norm itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ('weight', 'bias', 'weight_readjust', 'bias_readjust'):
            self.register_parameter(name, nn.Parameter(torch.randn(1, channels, 1, 1)))
        self.register_buffer('running_mean', torch.zeros(channels))
        self.register_buffer('running_var', torch.ones(channels))
        self.register_buffer('num_batches_tracked', torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.weight_readjust * x.mean((2, 3), keepdim=True) + self.bias_readjust)
        mean, var = (b[None, :, None, None] for b in (self.running_mean, self.running_var))
        return self.weight * gate * (x - mean) / (var + 1e-5).sqrt() + self.bias


class Block(nn.Module):
    """Convolutions and norms by name, in their order, and a shortcut.

    ``preact``: '' for norms behind the convolutions, 'raw' and 'shared' for norms before them with a shortcut from the
    input and from the first activation.
    """

    def __init__(self, steps: List[Tuple[str, nn.Module]], shortcut: Shortcut, preact: str = '') -> None:
        super().__init__()
        self.steps = [name for name, _ in steps]
        self.shortcut_name = shortcut[0] if shortcut else None
        self.preact = preact
        for name, module in [*steps, *([shortcut] if shortcut else [])]:
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        y, source = x, x
        for i, name in enumerate(self.steps):
            y = getattr(self, name)(y)
            if self.preact and i % 2 == 0 or not self.preact and i % 2 and i + 1 < len(self.steps):
                y = y.relu()
                source = y if self.preact == 'shared' and i == 0 else source
        y = y + (getattr(self, self.shortcut_name)(source) if self.shortcut_name else x)
        return y if self.preact else y.relu()


class Network(nn.Module):
    """Children by name, in their order; a ReLU behind each norm of the trunk; mean over H, W before the classifier."""

    def __init__(self, children: List[Tuple[str, nn.Module]]) -> None:
        super().__init__()
        for name, module in children:
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x.mean((2, 3))) if isinstance(module, nn.Linear) else module(x)
            x = x.relu() if isinstance(module, (nn.BatchNorm2d, ReferenceNorm)) else x
        return x


class Wrapped(nn.Module):
    """A stage of the wide network is a module whose only child is ``layer``."""

    def __init__(self, blocks: List[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _conv(inner: int, outer: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, size, stride, size // 2, groups=groups, bias=False)


def _stages(widths: Tuple[int, ...], block: Callable[[int, int, int], nn.Module]) -> List[List[nn.Module]]:
    return [[block(widths[i] if j == 0 else widths[i + 1], widths[i + 1], 2 if i and j == 0 else 1)
             for j in range(LAYERS[i])] for i in range(3)]


def _named(stages: List[List[nn.Module]]) -> List[Tuple[str, nn.Module]]:
    return [(f'layer{i}', nn.Sequential(*blocks)) for i, blocks in enumerate(stages, 1)]


def _downsample(inner: int, outer: int, stride: int, norm: bool) -> Shortcut:
    modules = [_conv(inner, outer, 1, stride), *([nn.BatchNorm2d(outer)] if norm else [])]  # plain also in the paper's
    return ('downsample', nn.Sequential(*modules)) if inner != outer or stride > 1 else None


def resnet(norm: Norm) -> nn.Module:
    def block(inner: int, outer: int, stride: int) -> nn.Module:
        return Block([('conv1', _conv(inner, outer, 3, stride)), ('bn1', norm(outer)),
                      ('conv2', _conv(outer, outer, 3)), ('bn2', norm(outer))], _downsample(inner, outer, stride, True))
    return Network([('conv1', _conv(3, 16, 3)), ('bn1', norm(16)), *_named(_stages((16, 16, 32, 64), block)),
                    ('fc', nn.Linear(64, CLASSES))])


def resnet_bottleneck(norm: Norm) -> nn.Module:
    def block(inner: int, outer: int, stride: int) -> nn.Module:
        mid = outer // 4
        return Block([('conv1', _conv(inner, mid, 1)), ('bn1', norm(mid)), ('conv2', _conv(mid, mid, 3, stride)),
                      ('bn2', norm(mid)), ('conv3', _conv(mid, outer, 1)), ('bn3', norm(outer))],
                     _downsample(inner, outer, stride, True))
    return Network([('conv1', _conv(3, 16, 3)), ('bn1', norm(16)), *_named(_stages((16, 64, 128, 256), block)),
                    ('fc', nn.Linear(256, CLASSES))])


def preresnet(norm: Norm) -> nn.Module:
    def block(inner: int, outer: int, stride: int) -> nn.Module:
        mid = outer // 4
        return Block([('bn1', norm(inner)), ('conv1', _conv(inner, mid, 1)), ('bn2', norm(mid)),
                      ('conv2', _conv(mid, mid, 3, stride)), ('bn3', norm(mid)), ('conv3', _conv(mid, outer, 1))],
                     _downsample(inner, outer, stride, False), 'raw')
    return Network([('conv1', _conv(3, 16, 3)), *_named(_stages((16, 64, 128, 256), block)), ('bn', norm(256)),
                    ('fc', nn.Linear(256, CLASSES))])


def wrn(norm: Norm) -> nn.Module:
    def block(inner: int, outer: int, stride: int) -> nn.Module:
        shortcut = ('convShortcut', _conv(inner, outer, 1, stride)) if inner != outer else None
        return Block([('bn1', norm(inner)), ('conv1', _conv(inner, outer, 3, stride)), ('bn2', norm(outer)),
                      ('conv2', _conv(outer, outer, 3))], shortcut, 'shared')
    stages = [(f'block{i}', Wrapped(blocks)) for i, blocks in enumerate(_stages((16, 32, 48, 64), block), 1)]
    return Network([('conv1', _conv(3, 16, 3)), *stages, ('bn1', norm(64)), ('fc', nn.Linear(64, CLASSES))])


def resnext(norm: Norm) -> nn.Module:
    def block(inner: int, outer: int, stride: int) -> nn.Module:
        mid, shortcut = 8 * outer // 4, nn.Sequential()  # empty, but there, where the shapes agree
        if inner != outer:
            shortcut.add_module('shortcut_conv', _conv(inner, outer, 1, stride))
            shortcut.add_module('shortcut_bn', nn.BatchNorm2d(outer))
        return Block([('conv_reduce', _conv(inner, mid, 1)), ('bn_reduce', norm(mid)),
                      ('conv_conv', _conv(mid, mid, 3, stride, groups=8)), ('bn', norm(mid)),
                      ('conv_expand', _conv(mid, outer, 1)), ('bn_expand', norm(outer))], ('shortcut', shortcut))
    stages = [(f'stage_{i}', Network([(f'stage_{i}_bottleneck_{j}', b) for j, b in enumerate(blocks)]))
              for i, blocks in enumerate(_stages((8, 32, 64, 128), block), 1)]
    return Network([('conv_1_3x3', _conv(3, 8, 3)), ('bn_1', norm(8)), *stages,
                    ('classifier', nn.Linear(128, CLASSES))])
