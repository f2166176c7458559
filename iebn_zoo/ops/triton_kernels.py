# ruff: noqa: ANN001, ANN201 - what a kernel takes are pointers and numbers of Triton's own
"""The Triton kernels of the IEBN operator (README.md beside this file); ``iebn_zoo.ops.triton`` launches them.

Both memory layouts are cut into tiles of [BLOCK_R rows, BLOCK_N pixels]; a row is the N = H·W values of one instance
and channel, ``index`` is b·C + c. In NCHW the B·C rows follow each other and pixels are adjacent. In NHWC, torch's
channels_last, an instance has C interleaved rows and channels are adjacent. A program walks ``tiles`` tiles of its
rows; ``parts`` programs share the same rows. The order of a sum depends on shape and launch only: equal input, equal
bits. Arithmetic is float32. Buffers are (B, C), (C,), or, of partial results, (parts, B, C), all contiguous; ``scale``,
(B, C), is s = weight * g * rstd of the README.
"""
import triton
import triton.language as tl

# A size that became part of a kernel's specialization would make every new one compile anew.
kernel = triton.jit(do_not_specialize=['batch', 'channels', 'pixels', 'tiles', 'parts', 'sum_parts'])


@triton.jit
def _locate(program, batch, channels, pixels, tiles, parts,
            NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """A program's part; its rows' index, channel and mask, (BLOCK_R,); its first tile and number of tiles; addressing.

    Tile t begins ``origin`` + t * BLOCK_N * ``step`` values into the tensor; ``inner`` are the offsets within a tile.
    These fit 32 bits, ``origin`` and ``step`` may not.
    """
    part = program % parts
    block = program // parts
    row = tl.arange(0, BLOCK_R)
    pixel = tl.arange(0, BLOCK_N)
    # // VEC * VEC changes no value: it shows the compiler the divisor that vector loads need
    if NHWC:
        channels = channels // VEC * VEC
        blocks = tl.cdiv(channels, BLOCK_R)
        channel = block % blocks * BLOCK_R + row
        index = block // blocks * channels + channel
        mask = channel < channels
        step = channels.to(tl.int64)
        origin = block // blocks * (pixels * step) + block % blocks * BLOCK_R
        inner = row[:, None] + pixel[None, :] * channels
    else:
        pixels = pixels // VEC * VEC
        index = block * BLOCK_R + row
        channel = index % channels
        mask = index < batch * channels
        step = 1
        origin = block * BLOCK_R * pixels.to(tl.int64)
        inner = row[:, None] * pixels + pixel[None, :]
    first = part * tiles
    count = tl.minimum(tl.cdiv(pixels, BLOCK_N) - first, tiles)
    return part, index, channel, mask, first, count, origin, step, inner, pixels


@triton.jit
def _tile(number, mask, origin, step, inner, pixels, BLOCK_N: tl.constexpr):
    """Offsets and mask, (BLOCK_R, BLOCK_N), of a tile; ``mask`` and what follows as from ``_locate``."""
    start = number * BLOCK_N
    return origin + start * step + inner, mask[:, None] & (start + tl.arange(0, BLOCK_N) < pixels)[None, :]


@triton.jit
def _instances(start, batch, channels, channel, inside, BLOCK_B: tl.constexpr):
    """Index and mask, (BLOCK_B, BLOCK_C), of BLOCK_B instances from ``start`` on, in a program's channels."""
    instance = start + tl.arange(0, BLOCK_B)[:, None]
    return instance * channels + channel[None, :], (instance < batch) & inside[None, :]


@triton.jit
def _load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask, 0.0).to(tl.float32)


@triton.jit
def _store(ptr, offsets, value, mask):
    if ptr is not None:
        tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask)


@triton.jit
def _load_or(default, ptr, channel, mask):
    """A parameter, or the number that stands for None."""
    return tl.full(mask.shape, default, tl.float32) if ptr is None else _load(ptr, channel, mask)


@triton.jit
def _gate(mean, channel, mask, gate_weight_ptr, gate_bias_ptr):
    return tl.sigmoid(_load(gate_weight_ptr, channel, mask) * mean + _load(gate_bias_ptr, channel, mask))


@triton.jit
def _normalize(x, mu, scale, bias):
    # mu is subtracted first: scale * x - scale * mu cancels where the mean is large
    return (x - mu[:, None]) * scale[:, None] + bias[:, None]


@triton.jit
def _write(y_ptr, offsets, mask, x, mu, scale, bias, RELU: tl.constexpr):
    y = _normalize(x, mu, scale, bias)
    if RELU:
        y = tl.where(y <= 0, 0.0, y)  # tl.maximum would lose a NaN, torch.relu keeps it
    _store(y_ptr, offsets, y, mask)


@triton.jit
def _gradient(dy_ptr, x_ptr, offsets, mask, mu, scale, bias, RELU: tl.constexpr):
    """dy behind the ReLU, if there is one, and x - mu."""
    dy = _load(dy_ptr, offsets, mask)
    x = _load(x_ptr, offsets, mask)
    if RELU:  # the output is recomputed as it was stored: rounding may have made it 0
        y = _normalize(x, mu, scale, bias).to(x_ptr.dtype.element_ty).to(tl.float32)
        dy = tl.where(y <= 0, 0.0, dy)
    return dy, x - mu[:, None]


@triton.jit
def _merge(ptr, index, mask, plane, parts):
    """Sum of the parts, each ``plane`` = B·C behind the other."""
    total = _load(ptr, index, mask)
    for part in tl.range(1, parts, loop_unroll_factor=4):
        total += _load(ptr + part * plane, index, mask)
    return total


@kernel
def instance_statistics(
        x_ptr, centre_ptr, shift_ptr, m2_ptr, batch, channels, pixels, tiles, parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of each part of each row the mean, as centre + shift, and M2, the sum of squares about it: three (parts, B, C).

    The centre is the mean of the first of a part's T tiles. A part whose other tiles lie far from it varies as much
    itself, so M2 loses at most a factor T of float32's precision, however large the mean. One rounded number for
    centre + shift would spoil the variance between instances.
    """
    part, index, _, rows, first, count, origin, step, inner, pixels = _locate(
        tl.program_id(0), batch, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    offsets, mask = _tile(first, rows, origin, step, inner, pixels, BLOCK_N)
    x = _load(x_ptr, offsets, mask)
    centre = tl.sum(x, 1) / tl.minimum(pixels - first * BLOCK_N, BLOCK_N)
    delta = tl.where(mask, x - centre[:, None], 0.0)
    total = delta
    squares = delta * delta
    for i in tl.range(1, count, loop_unroll_factor=2):
        offsets, mask = _tile(first + i, rows, origin, step, inner, pixels, BLOCK_N)
        delta = tl.where(mask, _load(x_ptr, offsets, mask) - centre[:, None], 0.0)
        total += delta
        squares += delta * delta
    length = tl.minimum(pixels - first * BLOCK_N, count * BLOCK_N)
    shift = tl.sum(total, 1) / length
    m2 = tl.sum(squares, 1) - shift * shift * length
    index += part * batch * channels
    tl.store(centre_ptr + index, centre, rows)
    tl.store(shift_ptr + index, shift, rows)
    tl.store(m2_ptr + index, tl.where(m2 < 0, 0.0, m2), rows)


@kernel
def batch_statistics(
        centre_ptr, shift_ptr, m2_ptr, mean_ptr, scale_ptr, mu_ptr, rstd_ptr, running_mean_ptr, running_var_ptr,
        weight_ptr, gate_weight_ptr, gate_bias_ptr, momentum, eps, unbias, batch, channels, pixels, tiles, parts,
        BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    """The above merged: instance means, scale (B, C); mu, rstd, running statistics (C,). ``unbias`` is M / (M - 1)."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < channels
    plane = batch * channels
    chunk = tiles * BLOCK_N
    size = batch * pixels.to(tl.float32)
    origin = _load(centre_ptr, channel, inside)
    total = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    for start in range(0, batch, BLOCK_B):
        index, mask = _instances(start, batch, channels, channel, inside, BLOCK_B)
        for part in tl.range(0, parts, loop_unroll_factor=4):
            at = index + part * plane
            delta = _load(centre_ptr, at, mask) - origin[None, :] + _load(shift_ptr, at, mask)
            total += tl.where(mask, delta, 0.0) * tl.minimum(pixels - part * chunk, chunk)
    offset = tl.sum(total, 0) / size
    mu = origin + offset
    squares = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    for start in range(0, batch, BLOCK_B):
        index, mask = _instances(start, batch, channels, channel, inside, BLOCK_B)
        total = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
        for part in tl.range(0, parts, loop_unroll_factor=4):
            at = index + part * plane
            delta = _load(centre_ptr, at, mask) - origin[None, :] + (_load(shift_ptr, at, mask) - offset[None, :])
            weighted = tl.where(mask, delta, 0.0) * tl.minimum(pixels - part * chunk, chunk)
            total += weighted
            squares += _load(m2_ptr, at, mask) + weighted * delta
        tl.store(mean_ptr + index, mu[None, :] + total / pixels, mask)
    var = tl.sum(squares, 0) / size
    rstd = 1.0 / tl.sqrt_rn(var + eps)
    tl.store(mu_ptr + channel, mu, inside)
    tl.store(rstd_ptr + channel, rstd, inside)
    tl.debug_barrier()  # the means are read again, maybe by other threads than wrote them
    factor = rstd * _load_or(1.0, weight_ptr, channel, inside)
    for start in range(0, batch, BLOCK_B):
        index, mask = _instances(start, batch, channels, channel, inside, BLOCK_B)
        mean = _load(mean_ptr, index, mask)
        gate = _gate(mean, channel[None, :], inside[None, :], gate_weight_ptr, gate_bias_ptr)
        tl.store(scale_ptr + index, factor[None, :] * gate, mask)
    if running_mean_ptr is not None:
        old_mean = _load(running_mean_ptr, channel, inside)
        old_var = _load(running_var_ptr, channel, inside)
        _store(running_mean_ptr, channel, old_mean + momentum * (mu - old_mean), inside)
        _store(running_var_ptr, channel, old_var + momentum * (var * unbias - old_var), inside)


@kernel
def instance_sums(
        x_ptr, sum_ptr, batch, channels, pixels, tiles, parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sum of each part of each row: (parts, B, C)."""
    part, index, _, rows, first, count, origin, step, inner, pixels = _locate(
        tl.program_id(0), batch, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    total = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for i in tl.range(0, count, loop_unroll_factor=2):
        offsets, mask = _tile(first + i, rows, origin, step, inner, pixels, BLOCK_N)
        total += _load(x_ptr, offsets, mask)
    tl.store(sum_ptr + part * batch * channels + index, tl.sum(total, 1), rows)


@kernel
def normalize(
        x_ptr, y_ptr, sum_ptr, mean_ptr, scale_ptr, mu_ptr, rstd_ptr, running_mean_ptr, running_var_ptr, weight_ptr,
        bias_ptr, gate_weight_ptr, gate_bias_ptr, eps, batch, channels, pixels, tiles, parts, sum_parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, RELU: tl.constexpr):
    """y, by scale and mu as given; where there are running statistics, these are computed and stored here instead.

    The instance sums that takes are merged from ``sum_ptr``; without, a program sums its rows itself.
    """
    # last rows first: they are what the pass before has left in the L2 cache
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part, index, channel, rows, first, count, origin, step, inner, pixels = _locate(
        program, batch, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    offsets, mask = _tile(first, rows, origin, step, inner, pixels, BLOCK_N)
    x = _load(x_ptr, offsets, mask)  # kept: a row of one tile is read once
    if running_mean_ptr is None:
        mu = _load(mu_ptr, channel, rows)
        scale = _load(scale_ptr, index, rows)
    else:
        if sum_ptr is None:
            total = x
            for i in tl.range(1, count, loop_unroll_factor=2):
                more, inside = _tile(first + i, rows, origin, step, inner, pixels, BLOCK_N)
                total += _load(x_ptr, more, inside)
            mean = tl.sum(total, 1) / pixels
        else:
            mean = _merge(sum_ptr, index, rows, batch * channels, sum_parts) / pixels
        mu = _load(running_mean_ptr, channel, rows)
        rstd = 1.0 / tl.sqrt_rn(_load(running_var_ptr, channel, rows) + eps)
        gate = _gate(mean, channel, rows, gate_weight_ptr, gate_bias_ptr)
        scale = rstd * _load_or(1.0, weight_ptr, channel, rows) * gate
        if part == 0:
            tl.store(mean_ptr + index, mean, rows)
            tl.store(scale_ptr + index, scale, rows)
            tl.store(mu_ptr + channel, mu, rows & (index < channels))
            tl.store(rstd_ptr + channel, rstd, rows & (index < channels))
    bias = _load_or(0.0, bias_ptr, channel, rows)
    _write(y_ptr, offsets, mask, x, mu, scale, bias, RELU)
    for i in range(1, count):  # backwards, for the same reason
        offsets, mask = _tile(first + count - i, rows, origin, step, inner, pixels, BLOCK_N)
        _write(y_ptr, offsets, mask, _load(x_ptr, offsets, mask), mu, scale, bias, RELU)


@kernel
def gradient_sums(
        dy_ptr, x_ptr, a_ptr, d_ptr, scale_ptr, mu_ptr, bias_ptr, batch, channels, pixels, tiles, parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, RELU: tl.constexpr):
    """A = sum dy and D = sum dy * (x - mu) of each part of each row: two (parts, B, C)."""
    part, index, channel, rows, first, count, origin, step, inner, pixels = _locate(
        tl.program_id(0), batch, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    mu = _load(mu_ptr, channel, rows)
    scale = _load(scale_ptr, index, rows)
    bias = _load_or(0.0, bias_ptr, channel, rows)
    a = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    d = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for i in tl.range(0, count, loop_unroll_factor=2):
        offsets, mask = _tile(first + i, rows, origin, step, inner, pixels, BLOCK_N)
        dy, x = _gradient(dy_ptr, x_ptr, offsets, mask, mu, scale, bias, RELU)
        a += dy
        d += dy * x
    index += part * batch * channels
    tl.store(a_ptr + index, tl.sum(a, 1), rows)
    tl.store(d_ptr + index, tl.sum(d, 1), rows)


@kernel
def gradient_coefficients(
        a_ptr, d_ptr, mean_ptr, rstd_ptr, weight_ptr, gate_weight_ptr, gate_bias_ptr,
        d_weight_ptr, d_bias_ptr, d_gate_weight_ptr, d_gate_bias_ptr, slope_ptr, shift_ptr,
        batch, channels, pixels, parts, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    """``gradient_sums`` merged: the parameters' gradients; slope (C,) and shift (B, C) of dx. None: not wanted."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < channels
    plane = batch * channels
    rstd = _load(rstd_ptr, channel, inside)
    weight = _load_or(1.0, weight_ptr, channel, inside)
    zero = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    sum_a, sum_ga, sum_gp, sum_da, sum_dam = zero, zero, zero, zero, zero
    for start in range(0, batch, BLOCK_B):
        index, mask = _instances(start, batch, channels, channel, inside, BLOCK_B)
        mean = _load(mean_ptr, index, mask)
        gate = _gate(mean, channel[None, :], inside[None, :], gate_weight_ptr, gate_bias_ptr)
        a = _merge(a_ptr, index, mask, plane, parts)
        p = _merge(d_ptr, index, mask, plane, parts) * rstd[None, :]
        da = weight[None, :] * p * gate * (1 - gate)
        sum_a += a
        sum_ga += gate * a
        sum_gp += gate * p
        sum_da += da
        sum_dam += da * mean
    gp = tl.sum(sum_gp, 0)
    _store(d_weight_ptr, channel, gp, inside)
    _store(d_bias_ptr, channel, tl.sum(sum_a, 0), inside)
    _store(d_gate_weight_ptr, channel, tl.sum(sum_dam, 0), inside)
    _store(d_gate_bias_ptr, channel, tl.sum(sum_da, 0), inside)
    if shift_ptr is not None:
        tau = _load(gate_weight_ptr, channel, inside) * weight * rstd / pixels
        shift = tl.zeros_like(rstd)
        if slope_ptr is not None:
            scale = weight * rstd / (batch * pixels.to(tl.float32))
            shift -= scale * tl.sum(sum_ga, 0)
            tl.store(slope_ptr + channel, -scale * rstd * gp, inside)
        for start in range(0, batch, BLOCK_B):
            index, mask = _instances(start, batch, channels, channel, inside, BLOCK_B)
            mean = _load(mean_ptr, index, mask)
            gate = _gate(mean, channel[None, :], inside[None, :], gate_weight_ptr, gate_bias_ptr)
            d = _merge(d_ptr, index, mask, plane, parts)
            tl.store(shift_ptr + index, tau[None, :] * (gate * (1 - gate) * d) + shift[None, :], mask)


@kernel
def input_gradient(
        dy_ptr, x_ptr, dx_ptr, scale_ptr, mu_ptr, bias_ptr, slope_ptr, shift_ptr, batch, channels, pixels, tiles, parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, RELU: tl.constexpr):
    """dx = s * dy + slope * (x - mu) + shift."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    _, index, channel, rows, first, count, origin, step, inner, pixels = _locate(
        program, batch, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    mu = _load(mu_ptr, channel, rows)
    scale = _load(scale_ptr, index, rows)
    bias = _load_or(0.0, bias_ptr, channel, rows)
    shift = _load(shift_ptr, index, rows)
    slope = _load_or(0.0, slope_ptr, channel, rows)
    for i in range(0, count):
        offsets, mask = _tile(first + i, rows, origin, step, inner, pixels, BLOCK_N)
        dy, x = _gradient(dy_ptr, x_ptr, offsets, mask, mu, scale, bias, RELU)
        dx = scale[:, None] * dy + shift[:, None]
        if slope_ptr is not None:
            dx += slope[:, None] * x
        _store(dx_ptr, offsets, dx, mask)
