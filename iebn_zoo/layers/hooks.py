"""Whether someone watches or changes what passes a module."""
from torch import nn


def has_hooks(module: nn.Module) -> bool:
    """True if the module has forward or backward hooks of its own: it must then be called, not bypassed."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
