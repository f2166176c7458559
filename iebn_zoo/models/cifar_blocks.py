"""Pre-activation blocks of the CIFAR networks; the post-activation ones are timm's BasicBlock and Bottleneck.

They take the arguments that timm.models.resnet.make_blocks passes.
"""
from typing import Any, Optional, Type

from timm.layers.create_attn import create_attn
from torch import Tensor, nn

from iebn_zoo._compat import is_scripting
from iebn_zoo.layers.conv_output import norm_of_output

LayerClass = Type[nn.Module]


def _conv(inplanes: int, planes: int, kernel_size: int, stride: int = 1, dilation: int = 1, **dd: Any) -> nn.Conv2d:
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(inplanes, planes, kernel_size, stride, padding, dilation, bias=False, **dd)


class PreActBottleneck(nn.Module):
    """x -> shortcut(x) + conv1x1(act(norm(conv3x3(act(norm(conv1x1(act(norm(x)))))))))

    He et al., "Identity Mappings in Deep Residual Networks", arXiv 1603.05027, figure 4(e). Where the shape changes,
    the shortcut is a 1x1 convolution of the raw input, without a norm.
    """

    expansion = 4

    def __init__(
            self,
            inplanes: int,
            planes: int,
            stride: int = 1,
            downsample: Optional[nn.Sequential] = None,
            reduce_first: int = 1,
            dilation: int = 1,
            first_dilation: Optional[int] = None,
            act_layer: LayerClass = nn.ReLU,
            norm_layer: LayerClass = nn.BatchNorm2d,
            attn_layer: Any = None,
            drop_block: Optional[LayerClass] = None,
            drop_path: Optional[nn.Module] = None,
            **dd: Any,
    ) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.bn1 = norm_layer(inplanes, **dd)
        self.act1 = act_layer()  # not in place: the raw input goes on through the shortcut
        self.conv1 = _conv(inplanes, planes // reduce_first, 1, **dd)
        self.bn2 = norm_layer(planes // reduce_first, **dd)
        self.act2 = act_layer(inplace=True)
        self.conv2 = _conv(planes // reduce_first, planes, 3, stride, first_dilation or dilation, **dd)
        self.bn3 = norm_layer(planes, **dd)
        self.drop_block = drop_block() if drop_block is not None else nn.Identity()
        self.act3 = act_layer(inplace=True)
        self.conv3 = _conv(planes, outplanes, 1, **dd)
        self.se = create_attn(attn_layer, outplanes, **dd)
        self.downsample = downsample[:-1] if downsample is not None else None  # its last module is the norm
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(self.act1(self.bn1(x)))
        x = self.bn2(x) if is_scripting() else norm_of_output(self.conv1, self.bn2, x)
        x = self.conv2(self.act2(x))
        x = self.bn3(x) if is_scripting() else norm_of_output(self.conv2, self.bn3, x)
        x = self.conv3(self.act3(self.drop_block(x)))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        return x + shortcut


class WideBasicBlock(nn.Module):
    """x -> shortcut + conv3x3(dropout(act(norm(conv3x3(act(norm(x)))))))

    Zagoruyko and Komodakis, "Wide Residual Networks", arXiv 1605.07146, figure 1(d). Where the shape changes, the
    shortcut is a 1x1 convolution of act(norm(x)), without a norm; elsewhere it is x.
    """

    expansion = 1

    def __init__(
            self,
            inplanes: int,
            planes: int,
            stride: int = 1,
            downsample: Optional[nn.Sequential] = None,
            reduce_first: int = 1,
            dilation: int = 1,
            first_dilation: Optional[int] = None,
            act_layer: LayerClass = nn.ReLU,
            norm_layer: LayerClass = nn.BatchNorm2d,
            attn_layer: Any = None,
            drop_block: Optional[LayerClass] = None,
            drop_path: Optional[nn.Module] = None,
            conv_drop_rate: float = 0.,
            **dd: Any,
    ) -> None:
        super().__init__()
        width = planes // reduce_first
        self.bn1 = norm_layer(inplanes, **dd)
        self.act1 = act_layer()
        self.conv1 = _conv(inplanes, width, 3, stride, first_dilation or dilation, **dd)
        self.bn2 = norm_layer(width, **dd)
        self.drop_block = drop_block() if drop_block is not None else nn.Identity()
        self.act2 = act_layer(inplace=True)
        self.dropout = nn.Dropout(conv_drop_rate)
        self.conv2 = _conv(width, planes, 3, 1, dilation, **dd)
        self.se = create_attn(attn_layer, planes, **dd)
        self.downsample = downsample[:-1] if downsample is not None else None
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        act = self.act1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(act)
        x = self.conv1(act)
        x = self.bn2(x) if is_scripting() else norm_of_output(self.conv1, self.bn2, x)
        x = self.conv2(self.dropout(self.act2(self.drop_block(x))))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        return x + shortcut
