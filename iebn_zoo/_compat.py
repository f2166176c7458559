"""Every private name of torch, timm and huggingface_hub that the package uses.

tests/test_compat.py checks each name, so that a release without it says so. The names are looked up once, at import,
because some stand on hot paths. A few public names stand here too: torch.jit and timm.layers document them, but list
them in no ``__all__``, which type checkers want.
"""
import platform
import sys
from contextlib import suppress
from typing import Any, Callable, Dict, List, Optional, Type, TypeVar

import timm.layers
import torch
from timm.layers import create_norm_act
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor as is_legacy_batched
from torch.autograd import forward_ad as _forward_ad
from torch.nn.modules import module as _module
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as RunningNormBase
from torch.utils._python_dispatch import _get_current_dispatch_mode as current_dispatch_mode
from torch.utils.data import DataLoader

_Class = TypeVar('_Class', bound=Type[nn.Module])
_Maker = TypeVar('_Maker', bound=Callable[..., nn.Module])

__all__ = [
    'BatchNormBase', 'RunningNormBase', 'add_relu_', 'buffers_of', 'children_of', 'current_dispatch_mode',
    'current_raw_stream', 'feature_take_indices', 'forward_ad_active', 'functorch_transforms_active',
    'has_bfloat16_instructions', 'has_compiled_call', 'has_global_hooks', 'has_gradient_hooks', 'has_hooks',
    'has_load_hooks', 'has_tangent', 'hooks_of', 'hub_client_factory', 'is_compiled', 'is_exporting', 'is_hooked',
    'is_legacy_batched', 'is_scripting', 'is_tracing', 'model_args', 'move_hooks', 'parameters_of',
    'register_notrace_module', 'set_model_args', 'shut_down_iterator', 'shut_down_loader', 'wants_activation']

is_scripting = torch.jit.is_scripting  # pyright: ignore[reportPrivateImportUsage] - torch.jit lists no names
is_tracing = torch.jit.is_tracing  # pyright: ignore[reportPrivateImportUsage] - as above
# x + alpha * y, then ReLU, written over x, in one pass
add_relu_ = torch._add_relu_  # pyright: ignore[reportPrivateImportUsage] - there is no public one
functorch_transforms_active = torch._C._are_functorch_transforms_active
# torch without CUDA does not have it, and nobody calls it there
current_raw_stream: Callable[[int], int] = getattr(torch._C, '_cuda_getCurrentRawStream', lambda index: 0)


def has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode AD follows the tensor."""
    return forward_ad_active() and _forward_ad.unpack_dual(tensor).tangent is not None


def forward_ad_active() -> bool:
    """Whether a ``torch.autograd.forward_ad.dual_level`` is open: a tensor may then have a tangent."""
    return _forward_ad._current_level >= 0


def register_notrace_module(cls: _Class) -> _Class:
    """Have timm's feature extractors keep modules of this class as single nodes of their FX graphs."""
    timm.layers.register_notrace_module(cls)  # pyright: ignore[reportPrivateImportUsage] - timm.layers lists no names
    return cls


def wants_activation(maker: _Maker) -> _Maker:
    """Have timm's ``get_norm_act_layer`` give ``maker`` the network's activation, as it does for layers of its own."""
    getattr(create_norm_act, '_NORM_ACT_REQUIRES_ARG', set()).add(maker)
    return maker


def has_bfloat16_instructions() -> Optional[bool]:
    """Whether this x86 processor multiplies bfloat16 itself, as AVX512_BF16 and AMX do; None for another processor."""
    if platform.machine().lower() not in ('x86_64', 'amd64'):
        return None
    checks = (getattr(torch.cpu, name, None) for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'))
    found = [bool(check()) for check in checks if check is not None]
    return any(found) if found else None


def is_exporting() -> bool:
    """Whether torch.export runs. Older compilers take ``torch.compiler.is_exporting()`` for True in every trace."""
    return getattr(torch.compiler, '_is_exporting_flag', False)


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` is what ``torch.compile`` returned."""
    dynamo = sys.modules.get('torch._dynamo')  # importing it takes long, and nothing is compiled before
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def has_compiled_call(module: nn.Module) -> bool:
    """Whether ``module.compile()`` has compiled the module in place."""
    return module._compiled_call_impl is not None


def children_of(module: nn.Module) -> Dict[str, Optional[nn.Module]]:
    """The children by name, as the module itself keeps them: a child may have two names, or be None.

    ``named_children`` leaves such out. A child that is written into the dict takes the place of the old one.
    """
    return module._modules


def parameters_of(module: nn.Module) -> Dict[str, Optional[nn.Parameter]]:
    """The module's own parameters by name, as it keeps them: None where there is none."""
    return module._parameters


def buffers_of(module: nn.Module) -> Dict[str, Optional[Tensor]]:
    """The module's own buffers by name, as it keeps them: None where there is none."""
    return module._buffers


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has forward or backward hooks of its own."""
    own = module.__dict__  # every forward of a layer asks: the attributes themselves take twice as long
    return bool(
        own['_forward_hooks'] or own['_forward_pre_hooks'] or own['_backward_hooks'] or own['_backward_pre_hooks'])


def is_hooked(module: nn.Module) -> bool:
    """Whether the module has hooks, or a ``forward`` that was set on the object itself: call it, do not bypass it."""
    return has_hooks(module) or 'forward' in module.__dict__


def has_load_hooks(module: nn.Module) -> bool:
    """Whether ``register_load_state_dict_pre_hook`` of the module was called: it may change the state dict."""
    return bool(module._load_state_dict_pre_hooks)


def has_global_hooks() -> bool:
    """Whether there are forward hooks on every module (``torch.nn.modules.module.register_module_forward_hook``)."""
    return bool(_module._global_forward_hooks or _module._global_forward_pre_hooks)


def has_gradient_hooks(tensor: Tensor) -> bool:
    """Whether ``register_hook`` or ``register_post_accumulate_grad_hook`` of the tensor was called."""
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


def hooks_of(module: nn.Module) -> List[str]:
    """The kinds of hooks that a module has of its own: ``['forward_hooks']``."""
    return [name.strip('_') for name, value in vars(module).items() if name.endswith('_hooks') and value]


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give ``new`` the hooks of ``old``. The dicts themselves move, so that the handles still remove the hooks."""
    vars(new).update({name: value for name, value in vars(old).items() if '_hook' in name})


def model_args(model: nn.Module) -> Optional[Dict[str, Any]]:
    """The arguments that timm writes into config.json and gives to the architecture's entrypoint, or None."""
    return getattr(model, '_model_args', None)


def set_model_args(model: nn.Module, args: Dict[str, Any]) -> None:
    """Replace ``model_args``."""
    setattr(model, '_model_args', args)  # noqa: B010 - nn.Module declares no such attribute


def shut_down_loader(loader: DataLoader) -> None:
    """End the processes of a DataLoader that keeps its iterator, if it has any; its next pass starts new ones."""
    with suppress(RuntimeError):  # torch's, out of a signal handler: a process has died, so that it has ended too
        shut_down_iterator(getattr(loader, '_iterator', None))
    loader._iterator = None


def shut_down_iterator(iterator: Any) -> None:
    """End the processes of a DataLoader's iterator, if it has any."""
    if hasattr(iterator, '_shutdown_workers'):
        iterator._shutdown_workers()


def hub_client_factory() -> Callable[[], Any]:
    """The function with which huggingface_hub makes its HTTP clients; ``set_client_factory`` replaces it."""
    from huggingface_hub.utils import _http
    return getattr(_http, '_GLOBAL_CLIENT_FACTORY', _http.default_client_factory)
