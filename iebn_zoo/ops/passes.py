"""The passes over a whole tensor on the CPU, each with the torch kernel that is fastest for its layout and dtype.

Shapes: x, y, dy are (B, C, H, W), NCHW-contiguous or channels_last; values per instance and channel are (B, C), per
channel (C,), in the wide dtype: float64 for float64, float32 for all others.

The choices rest on the measurements of scripts/benchmarks/operator_passes.txt. ``native_batch_norm`` on the view
(1, B·C, H, W) is an affine map at copy speed; where H·W is small the cost of a row rules. The backward of
``native_group_norm`` sums dy and dy·x per channel in one read, in float32 also where these are narrower. Told that the
rows of an NCHW tensor are the channels of one instance, it sums per instance and channel; with dy = x it gives the sums
of x and of x². A fresh large tensor costs more in page faults than the arithmetic on it, so scratch space is small and
used again. Where the whole of x is small, the number of calls rules.

New tensors come from methods of an argument, such as ``x.new_empty``: ``torch.empty`` would put them on the user's
default device (``torch.set_default_device``), which may be a GPU.
"""
from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor

from iebn_zoo._compat import add_relu_

# elements of a piece of work that stays in cache with its scratch space
_PIECE = 2 ** 20
# in tensors of at most this many elements a pass costs less than the calls that would save it
_SMALL = 2 ** 16
# rows shorter than this cost more by native_batch_norm than by broadcasting
_SHORT_ROW = 64
# native_group_norm adds the values of a row one after the other: longer rows are summed in parts of about this length
_PART = 512
# channels_last instances of at least this many elements are worth calls of their own
_LARGE_INSTANCE = 2 ** 17
# E[x²] - E[x]² loses a factor E[x²] / var = 1 + mean²/var of its precision: beyond this, torch's two-pass variance
_MAX_CANCELLATION = 5.0
# the like for sum dy·x - mu·sum dy, in standard deviations
_MAX_CENTRE = 2.0

# resolved once: a call through torch.ops looks its overload up each time
_batch_norm_into = torch.ops.aten.native_batch_norm.out
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_group_norm_backward = torch.ops.aten.native_group_norm_backward.default
_threshold_backward_into = torch.ops.aten.threshold_backward.grad_input
_BOTH_SUMS = [False, True, True]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _rows(x: Tensor) -> Tensor:
    return x.view(1, -1, x.size(2), x.size(3))


def _per_instance(t: Tensor) -> Tensor:
    return t.view(t.size(0), -1, 1, 1)


def _is_nchw(x: Tensor) -> bool:
    return x.is_contiguous()


def _pieces(x: Tensor) -> Iterator[Tuple[int, int]]:
    """Yield ranges of instances of about _PIECE elements each."""
    step = max(1, _PIECE * x.size(0) // max(x.numel(), 1))
    return ((i, min(i + step, x.size(0))) for i in range(0, x.size(0), step))


def _scratch(x: Tensor) -> Tensor:
    step = max(1, _PIECE * x.size(0) // max(x.numel(), 1))
    return torch.empty_like(x[:step], dtype=wide_dtype(x.dtype))


def is_small(x: Tensor) -> bool:
    """Whether calls cost more than passes."""
    return x.numel() <= _SMALL


def _has_short_rows(x: Tensor) -> bool:
    return _is_nchw(x) and x.size(2) * x.size(3) < _SHORT_ROW and not is_small(x)


def _row_sums(x: Tensor, out: Optional[Tensor] = None) -> Tensor:
    """Sum a wide tensor over H, W: (B, C)."""
    return x.sum((2, 3)) if out is None else torch.sum(x, (2, 3), out=out)


def _sums(dy: Tensor, x: Tensor) -> Tuple[Tensor, Tensor]:
    """Sum dy and dy·x over H, W in one read: two of (B, C), wide. Both tensors are NCHW.

    They are the gradients of bias and weight of a group norm with mean 0 and standard deviation 1, in one group.
    """
    batch, channels, n = x.size(0), x.size(1), x.size(2) * x.size(3)
    parts = next(i for i in range(max(1, n // _PART), 0, -1) if n % i == 0)
    rows, n = batch * channels * parts, n // parts
    # in three dimensions: the kernel for channels_last crashes in older versions of torch where dx is not wanted
    dy, x = dy.view(1, rows, n), x.view(1, rows, n)
    wide = wide_dtype(x.dtype)
    # the dtype of a group norm's weight, not its values, says that the sums of a narrow tensor are wide
    mean, rstd, weight = x.new_zeros(1, 1, dtype=wide), x.new_ones(1, 1, dtype=wide), x.new_empty(rows, dtype=wide)
    _, d, a = _group_norm_backward(dy, x, mean, rstd, weight, 1, rows, n, 1, _BOTH_SUMS)
    if parts > 1:
        a, d = a.view(-1, parts).sum(1), d.view(-1, parts).sum(1)
    return a.view(batch, channels), d.view(batch, channels)


def _in_one_read(x: Tensor) -> bool:
    """Whether ``_sums`` takes x, and faster than the sums one after the other."""
    return _has_short_rows(x) if x.dtype == wide_dtype(x.dtype) else _is_nchw(x)


def _has_large_instances(x: Tensor) -> bool:
    return x.numel() >= _LARGE_INSTANCE * x.size(0)


def instance_sum(x: Tensor) -> Tensor:
    """Sum over H, W: (B, C), wide."""
    if x.dtype == wide_dtype(x.dtype):
        return _row_sums(x)
    if _in_one_read(x):
        return _sums(x, x)[0]
    out = x.new_empty(x.size(0), x.size(1), dtype=wide_dtype(x.dtype))
    scratch = _scratch(x)  # summing a narrow tensor into a wide result would widen all of it at once
    for i, j in _pieces(x):
        _row_sums(scratch[:j - i].copy_(x[i:j]), out[i:j])
    return out


def _channel_variance(x: Tensor) -> Tensor:
    running = x.new_zeros(2, x.size(1), dtype=wide_dtype(x.dtype))
    return torch.batch_norm_update_stats(x, running[0], running[1], 0.0)[1]


def statistics(x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Compute instance sums (B, C), batch mean (C,) and biased batch variance (C,), all wide."""
    count = x.size(0) * x.size(2) * x.size(3)
    sums, squares = _sums(x, x) if _in_one_read(x) else (instance_sum(x), None)
    mu = sums.sum(0).div_(count)
    if squares is None:
        if not _is_nchw(x):
            return sums, mu, _channel_variance(x)
        squares = torch.linalg.vector_norm(x, dim=(2, 3)).square_()
    squares = squares.sum(0).div_(count)
    var = torch.addcmul(squares, mu, mu, value=-1)
    cancelled = torch.sub(squares, var, alpha=_MAX_CANCELLATION)
    if not cancelled.max().item() <= 0:  # so for NaN and for overflow too
        channels = (cancelled <= 0).logical_not_().nonzero().squeeze(1)
        few = 2 * len(channels) < len(var)
        var[channels] = _channel_variance(x.index_select(1, channels)) if few else _channel_variance(x)[channels]
    return sums, mu, var


def relu_backward(dy: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """Write dy where y > 0, else 0, into ``out``, and return it."""
    return _threshold_backward_into(dy, y, 0, grad_input=out)


def affine(
        x: Tensor, scale: Tensor, shift: Tensor, out: Tensor, relu: bool = False, residual: Optional[Tensor] = None,
        finite: bool = False,
) -> Tensor:
    """Write scale * x + shift + residual, or its positive part, into ``out``, and return it.

    Args:
        x: (B, C, H, W).
        scale: (B, C).
        shift: (B, C).
        out: As x; may be x.
        relu: Take the positive part.
        residual: As x, or None for 0.
        finite: The caller knows that scale * x + shift is free of NaN.
    """
    nchw, wide = _is_nchw(x), x.dtype == scale.dtype
    if wide and (residual is not None or not nchw):
        return _broadcast_affine(x, scale, shift, out, relu, residual)
    if wide and (relu or x.size(2) * x.size(3) < _SHORT_ROW):
        torch.mul(x, _per_instance(scale), out=out)
        shift = _per_instance(shift)
        if relu and finite and x.dtype == torch.float32:
            return add_relu_(out, shift)  # one pass, but it knows no other dtype and makes 0 of NaN
        return _relu(out.add_(shift), relu)
    if nchw:
        _channel_affine(_rows(x), scale.reshape(-1), shift.reshape(-1), _rows(out))
    elif _has_large_instances(x):
        for i in range(x.size(0)):
            _channel_affine(x[i:i + 1], scale[i], shift[i], out[i:i + 1])
    else:
        return _pieced_affine(x, scale, shift, out, relu, residual)
    if residual is not None:
        out.add_(residual)
    return _relu(out, relu)


def _channel_affine(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """Write scale * x + shift, with wide scale and shift, (C,), into ``out``."""
    one, unused = torch.ones_like(scale), scale.new_empty(0)
    _batch_norm_into(
        x, scale, shift, torch.zeros_like(one), one, False, 0.0, 0.0, out=out, save_mean=unused, save_invstd=unused)


def _relu(x: Tensor, wanted: bool) -> Tensor:
    return x.relu_() if wanted else x


def _broadcast_affine(
        x: Tensor, scale: Tensor, shift: Tensor, out: Tensor, relu: bool, residual: Optional[Tensor],
) -> Tensor:
    scale, shift = _per_instance(scale), _per_instance(shift)
    if residual is None:
        return _relu(torch.addcmul(shift, x, scale, out=out), relu)
    return _relu(torch.addcmul(residual, x, scale, out=out).add_(shift), relu)


def _pieced_affine(
        x: Tensor, scale: Tensor, shift: Tensor, out: Tensor, relu: bool, residual: Optional[Tensor],
) -> Tensor:
    scratch = _scratch(x)
    for i, j in _pieces(x):
        piece = scratch[:j - i].copy_(x[i:j])
        out[i:j].copy_(_broadcast_affine(
            piece, scale[i:j], shift[i:j], piece, relu, None if residual is None else residual[i:j].to(piece.dtype)))
    return out


def affine_of_one(
        x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Optional[Tensor], eps: float,
) -> Tensor:
    """Compute weight * (x - mean) / sqrt(var + eps) + bias for one instance x, (1, C, H, W), from wide (C,)."""
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]


def gradient_sums(
        dy: Tensor, x: Tensor, mu: Tensor, r: Tensor, scratch: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor, bool]:
    """Compute A = sum_hw dy and D = sum_hw dy * (x - mu), (B, C), wide; and whether ``combine`` may round in between.

    Args:
        dy: Gradient of the output.
        x: Input.
        mu: (C,).
        r: 1 / sqrt(var + eps), (C,).
        scratch: As x, to be overwritten; None for a small one.
    """
    batch, channels, n = x.size(0), x.size(1), x.size(2) * x.size(3)
    nchw, narrow = _is_nchw(x), x.dtype != mu.dtype
    in_rows = nchw and not narrow and n >= _SHORT_ROW
    # sum dy·x - mu·A needs no second read where mu is not so large that the difference cancels; NaN counts as large
    centre = in_rows or not (mu * r).abs_().max() <= _MAX_CENTRE
    # k may be too small a number for float16; where the mean is large, the terms of dx are much larger than dx
    rounds = x.dtype == torch.bfloat16 and not centre and (
        n >= _SHORT_ROW if nchw else _has_large_instances(x))
    if nchw and centre:
        one, means = mu.new_ones(batch * channels), mu.repeat(batch)  # not expand: the kernel ignores strides
        _, d, a = _batch_norm_backward(
            _rows(dy), _rows(x), one, means, one, None, None, False, 0.0, _BOTH_SUMS)
        return a.view(batch, channels), d.view(batch, channels), rounds
    if _in_one_read(x) and not centre:
        a, d = _sums(dy, x)
    else:
        a, d = _narrow_sums(dy, x, mu, centre) if narrow else _wide_sums(dy, x, mu, centre, scratch)
    return a, d if centre else d.addcmul_(a, mu, value=-1), rounds


def _product(dy: Tensor, x: Tensor, mu: Tensor, centre: bool, out: Tensor) -> Tensor:
    return torch.sub(x, mu.view(-1, 1, 1), out=out).mul_(dy) if centre else torch.mul(x, dy, out=out)


def _wide_sums(
        dy: Tensor, x: Tensor, mu: Tensor, centre: bool, scratch: Optional[Tensor],
) -> Tuple[Tensor, Tensor]:
    a = _row_sums(dy)
    if scratch is not None:
        return a, _row_sums(_product(dy, x, mu, centre, scratch))
    d, scratch = torch.empty_like(a), _scratch(x)
    for i, j in _pieces(x):
        _row_sums(_product(dy[i:j], x[i:j], mu, centre, scratch[:j - i]), d[i:j])
    return a, d


def _narrow_sums(dy: Tensor, x: Tensor, mu: Tensor, centre: bool) -> Tuple[Tensor, Tensor]:
    a, d = mu.new_empty(2, x.size(0), x.size(1)).unbind()
    wide_x, wide_dy = _scratch(x), _scratch(x)
    for i, j in _pieces(x):
        piece, gradient = wide_x[:j - i].copy_(x[i:j]), wide_dy[:j - i].copy_(dy[i:j])
        _row_sums(gradient, a[i:j])
        _row_sums(_product(gradient, piece, mu, centre, piece), d[i:j])
    return a, d


def combine(
        dy: Tensor, x: Tensor, s: Tensor, k: Optional[Tensor], c: Tensor, out: Tensor, rounds: bool = False,
) -> Tensor:
    """Write s * dy + k * x + c into ``out``, which may be ``dy``, and return it.

    s and c are (B, C); k is (C,), or None for 0. ``rounds`` lets it round s * dy + c to the dtype of ``x``; the values
    of k must then be representable in it.
    """
    if k is None:
        return affine(dy, s, c, out)
    if x.dtype == s.dtype:
        return affine(dy, s, c, out).addcmul_(x, k.view(-1, 1, 1))
    if rounds:
        return affine(dy, s, c, out).addcmul_(x, k.to(x.dtype).view(-1, 1, 1))
    scratch, second = _scratch(x), _scratch(x)
    for i, j in _pieces(x):
        piece = affine(scratch[:j - i].copy_(dy[i:j]), s[i:j], c[i:j], scratch[:j - i])
        out[i:j].copy_(piece.addcmul_(second[:j - i].copy_(x[i:j]), k.view(-1, 1, 1)))
    return out
