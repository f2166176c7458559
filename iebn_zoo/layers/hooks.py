"""Whether someone watches or changes what passes a module."""
from torch import nn
from torch.nn.modules import module as nn_module


def has_hooks(module: nn.Module) -> bool:
    """True if the module has forward or backward hooks of its own: it must then be called, not bypassed."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def has_global_hooks() -> bool:
    """True if there are forward hooks on every module (``torch.nn.modules.module.register_module_forward_hook``)."""
    return bool(nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
