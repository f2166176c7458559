"""A setting: the dtype, the memory format and the compiler under which a step is measured."""
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Callable, Optional

import torch
from torch import nn

from iebn_zoo.util.errors import UsageError

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
CHANNELS_LAST, COMPILE = 'channels_last', 'compile'
COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune')


@dataclass(frozen=True)
class Setting:
    """A dtype other than float32 means autocast to it (for a layer also an input of it); parameters stay float32.

    Args:
        dtype: One of ``DTYPES``.
        channels_last: Memory format of the images and, in a model, of the weights; otherwise NCHW.
        backend: torch.compile's; None for eager.
        compile_mode: torch.compile's ``mode``; None where the backend is another than inductor, which has none.
    """

    dtype: str = 'float32'
    channels_last: bool = False
    backend: Optional[str] = None
    compile_mode: Optional[str] = None

    @property
    def name(self) -> str:
        """``bfloat16+channels_last+compile``: what ``parse`` reads; the dtype always stands there."""
        words = [self.dtype, *[CHANNELS_LAST] * self.channels_last, *[COMPILE] * (self.backend is not None)]
        return '+'.join(words)

    @property
    def compiler(self) -> Optional[str]:
        """``inductor``, or with a mode ``inductor:max-autotune``."""
        return f'{self.backend}:{self.compile_mode}' if self.compile_mode else self.backend

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch's."""
        return DTYPES[self.dtype]

    @property
    def memory_format(self) -> torch.memory_format:
        """torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device, cache: bool = True) -> AbstractContextManager:
        """Make the context in which a forward pass runs.

        Args:
            device: Where.
            cache: Keep narrow copies of the weights until the context ends. A capture in a CUDA graph needs False,
                because a copy that was cached before would be missing from the graph.
        """
        if self.dtype == 'float32':
            return nullcontext()
        return torch.autocast(device.type, self.torch_dtype, cache_enabled=cache)

    def prepare(self, module: nn.Module) -> Callable:
        """Return what is called in the place of ``module``."""
        if self.backend is None:
            return module
        return torch.compile(module, backend=self.backend, mode=self.compile_mode)

    def begin_step(self) -> None:
        """Tell torch.compile that a new step begins: reduce-overhead may reuse the memory of the last one's output."""
        if self.backend is not None:
            torch.compiler.cudagraph_mark_step_begin()


def parse(text: str, backend: str = 'inductor', compile_mode: Optional[str] = None) -> Setting:
    """Read a setting: words joined by +, each of ``DTYPES``, channels_last or compile. The defaults are float32,
    NCHW and eager.

    Args:
        text: Such as ``bfloat16+channels_last``.
        backend: What ``compile`` stands for.
        compile_mode: One of ``COMPILE_MODES``, for inductor.

    Raises:
        UsageError: A word is unknown or there twice, or there are two dtypes.
    """
    words = text.split('+')
    dtypes = [w for w in words if w in DTYPES]
    known = {*DTYPES, CHANNELS_LAST, COMPILE}
    if not set(words) <= known or len(set(words)) < len(words) or len(dtypes) > 1:
        raise UsageError(
            f"setting {text!r} is not one.\nExpected words joined by +, at most one dtype: {', '.join(DTYPES)}, "
            f'{CHANNELS_LAST}, {COMPILE}; such as bfloat16+channels_last.')
    compiled = COMPILE in words
    return Setting(dtypes[0] if dtypes else 'float32', CHANNELS_LAST in words, backend if compiled else None,
                   compile_mode if compiled else None)
