"""IEBN for CUDA tensors: which kernels of ``iebn_zoo.ops.triton_kernels`` run, and on how many programs.

Forward reads x twice and writes y; by running statistics it reads x once where a row fits a tile. Backward reads x and
dy twice and writes dx. Besides x only (B, C) and (C,) tensors are saved. Three launches each, one or two for a forward
by running statistics. No atomics and nothing tuned at run time: two runs give the same bits.
"""
import math
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OPTIONS = {'num_warps': 4, 'enable_fp_fusion': True}
TILE = 2048  # values of a tile, 16 a thread: vector loads, several of them in flight, and no register spills
REDUCERS = 4  # programs an SM wanted of a reduction; more would hide no more latency, and their results need merging
WRITERS = 16  # the same for a pass that writes, where small shares even out the end
MAX_PARTS = 64  # of a row, in a reduction: they are merged one after the other
FUSED_TILES = 8  # by running statistics, shorter rows are summed where they are normalized, however few they are
MERGE = {'BLOCK_B': 128, 'BLOCK_C': 8, **OPTIONS}


class Tiling(NamedTuple):
    """How x is cut; ``iebn_zoo.ops.triton_kernels`` explains the terms."""
    sizes: tuple[int, int, int]  # B, C, N = H·W
    blocks: int  # of BLOCK_R rows, in all
    tiles: int  # of BLOCK_N pixels, in a row
    options: dict[str, Any]

    def share(self, programs: int, max_parts: int) -> tuple[int, int]:
        """Tiles a program and programs a row, for at least ``programs`` in all if there are tiles enough."""
        parts = min(-(-programs // self.blocks), self.tiles, max_parts)
        tiles = -(-self.tiles // parts)
        return tiles, -(-self.tiles // tiles)


def supports(x: Tensor, *others: Optional[Tensor]) -> bool:
    """Whether ``forward`` and ``backward`` can run. They take any memory layout of ``x``.

    Args:
        x: (B, C, H, W).
        others: Running statistics and parameters, (C,) or None.
    """
    if not (x.is_cuda and x.dtype in DTYPES and x.layout == torch.strided and x.numel() > 0):
        return False
    b, c, h, w = x.shape
    if max(b * c, h * w) >= 2 ** 30 or c >= 2 ** 18:  # counts, and offsets within a tile, are 32-bit numbers
        return False
    return usable(x.device) and all(
        t is None or t.device == x.device and t.dtype in DTYPES and t.is_contiguous() for t in others)


@lru_cache
def usable(device: torch.device) -> bool:
    """Whether Triton is installed, supports the GPU (compute capability 8.0 on) and can build and launch a kernel.

    Warns where only the last fails: Triton needs a C compiler at run time, which slim containers lack.
    """
    if find_spec('triton') is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from iebn_zoo.ops.triton_kernels import instance_sums
        x = torch.zeros(1, 1, 1, 1, device=device)
        with torch.cuda.device_of(x):
            instance_sums[(1,)](x, torch.empty_like(x), 1, 1, 1, 1, 1, **_tiling(1, 1, 1, 1, False).options)
    except Exception as error:  # of the compiler, the linker, the driver: whatever it is, plain torch still works
        warnings.warn(
            f'IEBN runs on plain torch operations, which are slower: Triton cannot launch a kernel on {device} '
            f'({type(error).__name__}: {error}). It needs a C compiler such as gcc.', stacklevel=2)
        return False
    return True


@lru_cache
def sm_count(device: torch.device) -> int:
    """Streaming multiprocessors of the GPU: work is split for them, and results differ in rounding with the split."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def forward(
        x: Tensor,
        running_mean: Optional[Tensor],
        running_var: Optional[Tensor],
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        gate_bias: Tensor,
        training: bool,
        momentum: float,
        eps: float,
        relu: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output (B, C, H, W), of dtype and memory layout of ``x``, and what ``backward`` needs besides ``x``.

    Arguments as ``iebn_zoo.ops.ie_batch_norm``, but that ``training`` means by the batch, with or without running
    statistics to update; otherwise they must be given.
    """
    from iebn_zoo.ops import triton_kernels as kernels
    x, tiling = _cut(x)
    b, c, n = tiling.sizes
    sms = sm_count(x.device)
    y = torch.empty_like(x)
    stored = tuple(torch.empty(shape, dtype=torch.float32, device=x.device) for shape in ((b, c), (b, c), (c,), (c,)))
    tiles, parts = tiling.share(REDUCERS * sms, MAX_PARTS)
    sums, sum_parts = None, parts
    with torch.cuda.device_of(x):
        if training:
            partial = _partial_results(3, x, parts)
            kernels.instance_statistics[(tiling.blocks * parts,)](x, *partial, b, c, n, tiles, parts, **tiling.options)
            unbias = b * n / (b * n - 1) if b * n > 1 else math.nan
            kernels.batch_statistics[(-(-c // MERGE['BLOCK_C']),)](
                *partial, *stored, running_mean, running_var, weight, gate_weight, gate_bias, float(momentum),
                float(eps), unbias, b, c, n, tiles, parts, BLOCK_N=tiling.options['BLOCK_N'], **MERGE)
            running_mean = running_var = None
        elif tiling.tiles > FUSED_TILES and parts > 1:
            sums, = _partial_results(1, x, parts)
            kernels.instance_sums[(tiling.blocks * parts,)](x, sums, b, c, n, tiles, parts, **tiling.options)
        # a program that has to sum its rows has to have all of them
        tiles, parts = tiling.share(WRITERS * sms, tiling.tiles if training or sums is not None else 1)
        kernels.normalize[(tiling.blocks * parts,)](
            x, y, sums, *stored, running_mean, running_var, weight, bias, gate_weight, gate_bias, float(eps),
            b, c, n, tiles, parts, sum_parts, RELU=relu, **tiling.options)
    return y, (*stored, gate_bias)


def statistics(saved: tuple[Tensor, ...], eps: float) -> tuple[Tensor, Tensor]:
    """mu and var, (C,), float32, by which ``forward`` normalized."""
    _, _, mu, rstd, _ = saved
    return mu, rstd.square().reciprocal_().sub_(eps)


def backward(
        dy: Tensor,
        x: Tensor,
        saved: tuple[Tensor, ...],
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        training: bool,
        eps: float,
        relu: bool,
        needs: tuple[bool, ...],
) -> tuple[Optional[Tensor], ...]:
    """Gradients of x, weight, bias, gate_weight, gate_bias: (B, C, H, W) and four of (C,), None where not needed.

    Args:
        dy: (B, C, H, W), any memory layout.
        saved: Second result of ``forward``; what else it was given must be the same here.
        needs: Which of the five.
    """
    from iebn_zoo.ops import triton_kernels as kernels
    mean, scale, mu, rstd, gate_bias = saved
    x, tiling = _cut(x)
    b, c, n = tiling.sizes
    dy = dy.contiguous(memory_format=torch.channels_last if tiling.options['NHWC'] else torch.contiguous_format)
    inputs = (x, weight, bias, gate_weight, gate_bias)
    gradients = tuple(
        torch.empty_like(t) if t is not None and need else None for t, need in zip(inputs, needs, strict=True))
    dx = gradients[0]
    shift = None if dx is None else torch.empty_like(mean)
    slope = torch.empty_like(rstd) if dx is not None and training else None
    sms = sm_count(x.device)
    tiles, parts = tiling.share(REDUCERS * sms, MAX_PARTS)
    with torch.cuda.device_of(x):
        partial = _partial_results(2, x, parts)
        kernels.gradient_sums[(tiling.blocks * parts,)](
            dy, x, *partial, scale, mu, bias, b, c, n, tiles, parts, RELU=relu, **tiling.options)
        kernels.gradient_coefficients[(-(-c // MERGE['BLOCK_C']),)](
            *partial, mean, rstd, weight, gate_weight, gate_bias, *gradients[1:], slope, shift, b, c, n, parts, **MERGE)
        if dx is not None:
            tiles, parts = tiling.share(WRITERS * sms, tiling.tiles)
            kernels.input_gradient[(tiling.blocks * parts,)](
                dy, x, dx, scale, mu, bias, slope, shift, b, c, n, tiles, parts, RELU=relu, **tiling.options)
    return gradients


def _cut(x: Tensor) -> tuple[Tensor, Tiling]:
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x, _tiling(*x.shape, True)
    return x.contiguous(), _tiling(*x.shape, False)


@lru_cache(maxsize=1024)
def _tiling(b: int, c: int, h: int, w: int, nhwc: bool) -> Tiling:
    n = h * w
    vec = math.gcd(c if nhwc else n, 16)
    tile = TILE if vec > 1 else TILE // 2  # without vector loads a thread has more rows and addresses to keep
    if nhwc:
        block_r = min(_power_of_2(c), 64)  # a cache line of 16-bit values
        block_n = min(_power_of_2(n), tile // block_r)
        blocks = b * -(-c // block_r)
    else:
        # the widest of those that leave the least of a row's last tile empty
        block_n = min(_power_of_2(n), min((1024, 512, 256), key=lambda width: -(-n // width) * width))
        block_r = tile // block_n
        blocks = -(-b * c // block_r)
    return Tiling((b, c, n), blocks, -(-n // block_n), {
        'NHWC': nhwc, 'VEC': vec, 'BLOCK_R': block_r, 'BLOCK_N': block_n, **OPTIONS})


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _partial_results(count: int, x: Tensor, parts: int) -> tuple[Tensor, ...]:
    return torch.empty((count, parts, *x.shape[:2]), dtype=torch.float32, device=x.device).unbind()
