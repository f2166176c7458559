"""IEBN for CUDA tensors: which kernels of ``iebn_zoo.ops.triton_kernels`` run, and on how many programs.

Two launches forward and two backward. Forward reads x twice and writes y; by running statistics it reads x once, in one
launch, where a row fits a tile. Backward reads x and dy twice and writes dx. Besides x, and the output where a residual
was added before a ReLU, only (B, C) and (C,) tensors are saved. Nothing is tuned at run time and every sum has a fixed
order: two runs give the same bits.
"""
import math
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from iebn_zoo.ops import triton_counters
from iebn_zoo.ops.function import Gradients, Needs

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OPTIONS = {'num_warps': 4, 'enable_fp_fusion': True}
TILE = 2048  # values of a tile, 16 per thread: vector loads, several of them in flight, and no register spills
REDUCERS = 4  # programs per SM for a reduction; more would not hide more latency, and their results need merging
WRITERS = 16  # the same for a pass that writes, where small shares even out the end
MAX_PARTS = 64  # of a row, in a reduction: a program of the next launch merges those of its rows one after the other
FUSED_TILES = 8  # by running statistics, shorter rows are summed where they are normalized, however few they are
MERGED = 1024  # partial results that a program merges at a time: 8 per thread, of up to five kinds
SINGLE = 4  # times as many are merged by one program; of more, each group has a last program, and then the groups
LONG = 8  # rows of a tile of long rows in NCHW
_usable: Dict[Tuple[torch.device, torch.dtype], bool] = {}


class Launch(NamedTuple):
    """``programs`` in all, ``parts`` of them for the same rows, each of which walks ``tiles`` tiles."""
    programs: Tuple[int]
    tiles: int
    parts: int


class Plan(NamedTuple):
    """How x is cut; ``iebn_zoo.ops.triton_tiles`` explains the terms."""
    sizes: Tuple[int, int, int]  # B, C, N = H·W
    tile: Dict[str, Any]  # constants of every kernel
    reduction: Launch
    writing: Launch
    whole: Launch  # writing, with all of a row in one program
    sums_first: bool  # by running statistics, long rows that several programs share are summed by a launch of its own
    group: int  # entries of a table that are merged at a time
    rows: int  # of the table: entries and groups
    counters: int  # for arrivals
    merging: Dict[str, Any]  # constants of the kernels that merge


class Saved(NamedTuple):
    """What ``forward`` keeps for ``backward`` besides its arguments."""

    stored: Tensor  # (B + 2, C) float32: instance means, mu, 1 / sqrt(var + eps)
    gate_bias: Tensor  # (C,)
    y: Optional[Tensor]  # output, where there are a residual and a ReLU


def supports(x: Tensor, *others: Optional[Tensor]) -> bool:
    """Whether ``forward`` and ``backward`` can run. They take any memory layout of ``x``.

    Args:
        x: (B, C, H, W).
        others: Running statistics and parameters, (C,) or None.
    """
    if not (x.is_cuda and x.dtype in DTYPES and x.layout == torch.strided and x.numel() > 0):
        return False
    b, c, h, w = x.shape
    # counts, and offsets within a tile of LONG rows or of 128 pixels, are 32-bit numbers
    if b * c >= 2 ** 30 or h * w * LONG >= 2 ** 31 or c >= 2 ** 18:
        return False
    gpu = x.get_device()
    return usable(x) and all(
        t is None or t.get_device() == gpu and t.dtype in DTYPES and t.is_contiguous() for t in others)


def usable(x: Tensor) -> bool:
    """Whether Triton is installed, and the kernels compile for the GPU and the dtype of ``x`` and can be launched.

    The function tries it once per GPU and dtype. While a CUDA graph is captured it cannot try: until it knows, it then
    answers False. It warns of what failed, such as an old GPU that lacks the dtype, or a container without the C
    compiler that Triton needs at run time.
    """
    key = x.device, x.dtype
    if key not in _usable:
        if find_spec('triton') is None:
            _usable[key] = False
        elif torch.cuda.is_current_stream_capturing():
            return False
        else:
            _usable[key] = _can_run(x)
    return _usable[key]


def _can_run(x: Tensor) -> bool:
    try:
        with torch.cuda.device_of(x), torch.no_grad():
            try_kernels(x)
    except Exception as error:  # of the compiler, the linker, the driver: whatever it is, plain torch still works
        warnings.warn(
            f'IEBN of {x.dtype} runs on plain torch operations, which are slower: Triton cannot run its kernels on '
            f'{x.device} ({type(error).__name__}: {error}). It needs a GPU that knows the dtype, and a C compiler such '
            'as gcc.', stacklevel=2)
        return False
    return True


def try_kernels(like: Tensor) -> None:
    """Launch every kernel as training and inference do, with a ReLU alone and with one behind a residual.

    Args:
        like: Has the device, the dtype and the memory layout that are tried.

    Raises:
        Exception: Whatever the compiler, the linker or the driver raised.
    """
    _, plan = _cut(like)
    x = _as_layout_of(torch.zeros(1, 64, 48, 48, dtype=like.dtype, device=like.device), plan)
    mean, var, weight, bias, gate_weight, gate_bias = torch.ones(6, 64, device=like.device)
    count = torch.zeros((), dtype=torch.int64, device=like.device)
    for residual in (None, x):
        y, saved = forward(x, mean, var, weight, bias, gate_weight, gate_bias, True, 0.1, 1e-5, True, residual, count)
        needs = Needs(True, True, True, True, True, residual is not None)
        backward(y, x, saved, weight, bias, gate_weight, True, 1e-5, True, needs)
    forward(x, mean, var, weight, bias, gate_weight, gate_bias, False, 0.0, 1e-5, True)
    if like.is_cuda:
        torch.cuda.synchronize(like.device)  # what fails on the GPU is reported late
        triton_counters.reserve(like.device)


@lru_cache
def sm_count(device: torch.device) -> int:
    """Count the streaming multiprocessors of the GPU. The work is split for them, and rounding depends on the split."""
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
        residual: Optional[Tensor] = None,
        num_batches_tracked: Optional[Tensor] = None,
) -> Tuple[Tensor, Saved]:
    """Compute the output, (B, C, H, W), of the dtype and memory layout of ``x``, and what ``backward`` needs.

    The arguments are those of ``iebn_zoo.ops.ie_batch_norm``. ``training`` normalizes by the batch and updates the
    running statistics, if there are any; without it they must be given.
    """
    kernels, (x, plan) = _kernels(), _cut(x)
    if residual is not None:
        residual = _as_layout_of(residual, plan)
    b, c, n = plan.sizes
    y = torch.empty_like(x)
    stored = torch.empty((b + 2, c), dtype=torch.float32, device=x.device)
    table, (programs, tiles, parts) = None, plan.reduction
    with torch.cuda.device_of(x):
        if training:
            table = torch.empty(plan.rows * (4 * c + 1), dtype=torch.float32, device=x.device)
            kernels.instance_statistics[programs](
                x, table, triton_counters.zeros(x.device, plan.counters), stored, running_mean, running_var,
                num_batches_tracked, float(momentum), float(eps), b, c, n, tiles, parts, plan.group, **plan.merging)
            running_mean = running_var = None
        elif plan.sums_first:
            table = torch.empty((parts, b, c), dtype=torch.float32, device=x.device)
            kernels.instance_sums[programs](x, table, b, c, n, tiles, parts, **plan.tile)
        # a program that has to sum its rows has to have all of them
        launch = plan.whole if table is None else plan.writing
        kernels.normalize[launch.programs](
            x, residual, y, table, stored, running_mean, running_var, weight, bias, gate_weight, gate_bias, float(eps),
            b, c, n, launch.tiles, launch.parts, parts, RELU=relu, **plan.tile)
    return y, Saved(stored, gate_bias, y if relu and residual is not None else None)


def statistics(saved: Saved, eps: float) -> Tuple[Tensor, Tensor]:
    """Return mu and var, (C,), float32, by which ``forward`` normalized."""
    mu, rstd = saved.stored[-2:]
    return mu, rstd.square().reciprocal_().sub_(eps)


def backward(
        dy: Tensor,
        x: Tensor,
        saved: Saved,
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        training: bool,
        eps: float,
        relu: bool,
        needs: Needs,
) -> Gradients:
    """Compute the gradients that ``needs`` names, from dy in any memory layout.

    The other arguments are those of ``forward``, and what it saved.
    """
    stored, gate_bias, y = saved
    kernels, (x, plan) = _kernels(), _cut(x)
    b, c, n = plan.sizes
    dy = _as_layout_of(dy, plan)
    dx, *parameters = (
        torch.empty_like(t) if need and t is not None else None
        for t, need in zip((x, weight, bias, gate_weight, gate_bias), needs[:-1], strict=True))
    d_residual = None
    if needs.residual:
        d_residual = dy if y is None else torch.empty_like(x)
    table = torch.empty((5 * plan.rows + 2) * c, dtype=torch.float32, device=x.device)
    programs, tiles, parts = plan.reduction
    with torch.cuda.device_of(x):
        kernels.gradient_sums[programs](
            dy, x, y, None if y is None else d_residual, table, triton_counters.zeros(x.device, plan.counters), stored,
            weight, bias, gate_weight, gate_bias, *parameters, b, c, n, tiles, parts, plan.group, RELU=relu,
            **plan.merging)
        if dx is not None:
            if y is not None and d_residual is not None:  # dy behind the ReLU: no mask need be read again
                dy, y, relu = d_residual, None, False
            kernels.input_gradient[plan.writing.programs](
                dy, x, y, dx, table, stored, weight, bias, gate_weight, gate_bias, b, c, n, *plan.writing[1:], parts,
                RELU=relu, BY_BATCH=training, **plan.tile)
    return Gradients(dx, *parameters, residual=d_residual)


@lru_cache
def _kernels() -> Any:
    from iebn_zoo.ops import triton_kernels  # Triton is imported where it is needed, and need not be installed
    return triton_kernels


def _cut(x: Tensor) -> Tuple[Tensor, Plan]:
    nhwc = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return x if nhwc else x.contiguous(), _plan(*x.shape, nhwc, sm_count(x.device))


def _as_layout_of(t: Tensor, plan: Plan) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last if plan.tile['NHWC'] else torch.contiguous_format)


@lru_cache(maxsize=1024)
def _plan(b: int, c: int, h: int, w: int, nhwc: bool, sms: int) -> Plan:
    n = h * w
    vec, block_r, block_n = _tile(c, n, nhwc)
    tile = {'NHWC': nhwc, 'VEC': vec, 'BLOCK_R': block_r, 'BLOCK_N': block_n, **OPTIONS}
    blocks, tiles = -(-c // block_r), -(-n // block_n)
    reduction = _share(b * blocks, tiles, REDUCERS * sms, MAX_PARTS)
    chunk = MERGED // block_r
    entries = b * reduction.parts
    chunks = -(-entries // chunk)
    # as many groups as entries in each, so that neither a group's last program nor the very last has much to read
    group = entries if chunks <= SINGLE else chunk * -(-math.isqrt(entries) // chunk)
    groups = -(-entries // group)
    return Plan(
        (b, c, n), tile, reduction, _share(b * blocks, tiles, WRITERS * sms, tiles), _share(b * blocks, tiles, 1, 1),
        reduction.parts > 1 and tiles > FUSED_TILES, group, entries + groups, blocks * (groups + 1),
        {'CHUNK': chunk, **tile})


def _tile(c: int, n: int, nhwc: bool) -> Tuple[int, int, int]:
    """Choose VEC, BLOCK_R and BLOCK_N: few different ones, because each is compiled anew."""
    vec = math.gcd(c if nhwc else n, 8)  # 16 bytes of 16-bit values
    vec = vec if vec >= 4 else 1
    tile = TILE if vec > 1 else TILE // 2  # without vector loads a thread has more rows and addresses to keep
    if nhwc:
        block_r = 64 if c > 16 else 16  # 64: a cache line of 16-bit values
        return vec, block_r, 16 if n <= 16 else tile // block_r
    block_n = 256 if n > 64 else 64 if n > 16 else 16
    return vec, min(tile // block_n, 64), block_n


def _share(blocks: int, tiles: int, programs: int, max_parts: int) -> Launch:
    """Choose at least ``programs`` programs, as far as there are tiles, of which at most ``max_parts`` share a row."""
    parts = min(-(-programs // blocks), tiles, max_parts)
    tiles_each = -(-tiles // parts)
    parts = -(-tiles // tiles_each)
    return Launch((blocks * parts,), tiles_each, parts)
