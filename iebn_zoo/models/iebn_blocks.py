"""timm's residual blocks that let the last norm add the shortcut and take the ReLU behind the sum.

Only ``forward`` differs: modules, names and state dicts are timm's. He et al., arXiv 1512.03385, figure 5.
"""
from typing import Any, Final

from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor

from iebn_zoo._compat import is_scripting
from iebn_zoo.layers.conv_output import norm_of_output

_TOO_LATE = 'drop_path was set on a block that was built without one: build the model with drop_path_rate instead.'


class IEBNBasicBlock(BasicBlock):
    """x -> act(norm(conv3x3(act(norm(conv3x3(x))))) + shortcut(x))"""

    norm_adds_shortcut: Final[bool]  # models.norms sets it; Final lets TorchScript compile one branch only

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm_adds_shortcut = False

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.conv1(x)
        x = self.bn1(x) if is_scripting() else norm_of_output(self.conv1, self.bn1, x)
        assert self.aa is not None
        x = self.aa(self.act1(self.drop_block(x)))
        x = self.conv2(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        if self.norm_adds_shortcut:
            if self.drop_path is not None:
                raise RuntimeError(_TOO_LATE)
            x = (self.bn2(x, shortcut) if is_scripting()
                 else norm_of_output(self.conv2, self.bn2, x, shortcut))
        else:
            x = self.bn2(x)
            if self.se is not None:
                x = self.se(x)
            if self.drop_path is not None:
                x = self.drop_path(x)
            x += shortcut
        return self.act2(x)


class IEBNBottleneck(Bottleneck):
    """x -> act(norm(conv1x1(act(norm(conv3x3(act(norm(conv1x1(x)))))))) + shortcut(x))"""

    norm_adds_shortcut: Final[bool]  # models.norms sets it; Final lets TorchScript compile one branch only

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm_adds_shortcut = False

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.conv1(x)
        x = self.bn1(x) if is_scripting() else norm_of_output(self.conv1, self.bn1, x)
        x = self.conv2(self.act1(x))
        x = self.bn2(x) if is_scripting() else norm_of_output(self.conv2, self.bn2, x)
        assert self.aa is not None
        x = self.conv3(self.aa(self.act2(self.drop_block(x))))
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        if self.norm_adds_shortcut:
            if self.drop_path is not None:
                raise RuntimeError(_TOO_LATE)
            x = (self.bn3(x, shortcut) if is_scripting()
                 else norm_of_output(self.conv3, self.bn3, x, shortcut))
        else:
            x = self.bn3(x)
            if self.se is not None:
                x = self.se(x)
            if self.drop_path is not None:
                x = self.drop_path(x)
            x += shortcut
        return self.act3(x)
