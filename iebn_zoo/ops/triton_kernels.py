# ruff: noqa: ANN001, ANN201 - what a kernel takes are pointers and numbers of Triton's own
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportAssignmentType=false
# because Triton's stubs take tl.range for no iterable, and a constexpr for no number
"""The Triton kernels of the IEBN operator (README.md beside this file); ``iebn_zoo.ops.triton`` launches them.

``triton_tiles`` has the terms; ``index`` is b·C + c. Arithmetic is float32, and so are the buffers, all contiguous:
``stored_ptr`` is (B + 2, C), the instance means, mu, and rstd = 1/sqrt(var + eps), which backward needs besides x, and
``table_ptr`` is what the programs of a reduction leave for each other and for the next launch.
"""
import triton
import triton.language as tl

from iebn_zoo.ops.triton_tiles import is_last, load, load_or, load_shared, locate, merge_parts, store, table_rows, tile

# A size that became part of a kernel's specialization would make every new one compile anew.
kernel = triton.jit(do_not_specialize=['batch', 'channels', 'pixels', 'tiles', 'parts', 'group', 'sum_parts'])


@triton.jit
def _gate_and_scale(mean, rstd, channel, mask, weight_ptr, gate_weight_ptr, gate_bias_ptr):
    """Compute g and s = weight * g * rstd of the README. Backward does so as forward did, from the same numbers."""
    gate = tl.sigmoid(load(gate_weight_ptr, channel, mask) * mean + load(gate_bias_ptr, channel, mask))
    return gate, rstd * load_or(1.0, weight_ptr, channel, mask) * gate


@triton.jit
def _normalize(x, mu, scale, bias):
    # mu is subtracted first: scale * x - scale * mu cancels where the mean is large
    return (x - mu[:, None]) * scale[:, None] + bias[:, None]


@triton.jit
def _write(y_ptr, residual_ptr, offsets, mask, x, mu, scale, bias, RELU: tl.constexpr):
    y = _normalize(x, mu, scale, bias)
    if residual_ptr is not None:
        y += load(residual_ptr, offsets, mask)
    if RELU:
        y = tl.where(y <= 0, 0.0, y)  # tl.maximum would lose a NaN, torch.relu keeps it
    store(y_ptr, offsets, y, mask)


@triton.jit
def _gradient(dy_ptr, x_ptr, y_ptr, offsets, mask, mu, scale, bias, RELU: tl.constexpr):
    """Load dy behind the ReLU, if there is one, and x - mu."""
    dy = load(dy_ptr, offsets, mask)
    x = load(x_ptr, offsets, mask)
    if RELU:
        if y_ptr is None:  # the output is recomputed as it was stored: rounding may have made it 0
            y = _normalize(x, mu, scale, bias).to(x_ptr.dtype.element_ty).to(tl.float32)
        else:
            y = load(y_ptr, offsets, mask)
        dy = tl.where(y <= 0, 0.0, dy)
    return dy, x - mu[:, None]


@triton.jit
def _pool_statistics(centre_ptr, plane, first, count, channels, channel, mask, CHUNK: tl.constexpr):
    """Merge ``count`` rows of ``instance_statistics``' table to mean, as origin + offset, M2 and size, (BLOCK_R,).

    CHUNK rows at a time are read once, and their squares taken about the mean of these; then they join what was before
    (Chan, Golub and LeVeque, 1979). So nothing cancels, however large the mean.
    """
    origin = load_shared(centre_ptr + first * channels, channel, mask)
    offset = tl.zeros_like(origin)
    m2 = tl.zeros_like(origin)
    size = tl.zeros_like(origin)
    for start in range(0, count, CHUNK):
        row, inside, at, within = table_rows(start, first, count, channels, channel, mask, CHUNK)
        weight = load_shared(centre_ptr + 3 * plane, row, inside)
        delta = load_shared(centre_ptr, at, within) - origin[None, :]
        shift = load_shared(centre_ptr + plane, at, within)
        squares = load_shared(centre_ptr + 2 * plane, at, within)
        more = tl.sum(weight, 0)
        mean = tl.sum(tl.where(within, delta + shift, 0.0) * weight[:, None], 0) / more
        rest = tl.where(within, delta + (shift - mean[None, :]), 0.0)
        between = mean - offset
        share = more / (size + more)
        m2 += tl.sum(squares + rest * rest * weight[:, None], 0) + between * between * (size * share)
        offset += between * share
        size += more
    return origin, offset, m2, size


@kernel
def instance_statistics(
        x_ptr, table_ptr, counter_ptr, stored_ptr, running_mean_ptr, running_var_ptr, num_batches_ptr, momentum, eps,
        batch, channels, pixels, tiles, parts, group, NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr,
        BLOCK_N: tl.constexpr, CHUNK: tl.constexpr):
    """Compute sum, mean and squares of each part of each row; from them mu, rstd, running statistics and their count.

    The table holds the sum, the mean as centre + shift, M2 (the squares about the mean), and behind these arrays the
    number of pixels, one per row. The centre is the mean of the first of a part's T tiles. A part whose other tiles lie
    far from it varies as much itself, so M2 loses at most a factor T of float32's precision, however large the mean.
    One rounded number for centre + shift would spoil the variance between instances.
    """
    part, instance, block, channel, mask, first, count, origin, step, inner, pixels = locate(
        tl.program_id(0), channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    offsets, within = tile(first, mask, origin, step, inner, pixels, BLOCK_N)
    x = load(x_ptr, offsets, within)
    centre = tl.sum(x, 1) / tl.minimum(pixels - first * BLOCK_N, BLOCK_N)
    delta = tl.where(within, x - centre[:, None], 0.0)
    total = delta
    squares = delta * delta
    for i in tl.range(1, count, loop_unroll_factor=2):
        offsets, within = tile(first + i, mask, origin, step, inner, pixels, BLOCK_N)
        delta = tl.where(within, load(x_ptr, offsets, within) - centre[:, None], 0.0)
        total += delta
        squares += delta * delta
    length = tl.minimum(pixels - first * BLOCK_N, count * BLOCK_N).to(tl.float32)
    shift = tl.sum(total, 1) / length
    m2 = tl.sum(squares, 1) - shift * shift * length

    entries = parts * batch
    groups = tl.cdiv(entries, group)
    entry = part * batch + instance
    plane = (entries + groups).to(tl.int64) * channels
    centre_ptr = table_ptr + plane
    at = entry * channels + channel
    tl.store(table_ptr + at, (centre + shift) * length, mask)
    tl.store(centre_ptr + at, centre, mask)
    tl.store(centre_ptr + plane + at, shift, mask)
    tl.store(centre_ptr + 2 * plane + at, tl.where(m2 < 0, 0.0, m2), mask)
    tl.store(centre_ptr + 3 * plane + entry, length)  # every channel block the same number

    number = entry // group
    counter_ptr += block * (groups + 1)
    first = number * group
    count = tl.minimum(group, entries - first)
    last = is_last(counter_ptr + number, count)
    if last & (groups > 1):
        centre, shift, m2, size = _pool_statistics(centre_ptr, plane, first, count, channels, channel, mask, CHUNK)
        at = (entries + number) * channels + channel
        tl.store(centre_ptr + at, centre, mask)
        tl.store(centre_ptr + plane + at, shift, mask)
        tl.store(centre_ptr + 2 * plane + at, m2, mask)
        tl.store(centre_ptr + 3 * plane + entries + number, tl.max(size, 0))
        last = is_last(counter_ptr + groups, groups)
        first = entries
        count = groups
    if last:
        centre, shift, m2, size = _pool_statistics(centre_ptr, plane, first, count, channels, channel, mask, CHUNK)
        mu = centre + shift
        size = batch * pixels.to(tl.float32)
        var = m2 / size
        mu_ptr = stored_ptr + batch * channels
        tl.store(mu_ptr + channel, mu, mask)
        tl.store(mu_ptr + channels + channel, 1.0 / tl.sqrt_rn(var + eps), mask)
        if running_mean_ptr is not None:
            old_mean = load(running_mean_ptr, channel, mask)
            old_var = load(running_var_ptr, channel, mask)
            store(running_mean_ptr, channel, old_mean + momentum * (mu - old_mean), mask)
            store(running_var_ptr, channel, old_var + momentum * (var * (size / (size - 1)) - old_var), mask)
        if num_batches_ptr is not None:  # noqa: SIM102 - decided by the compiler, the inner one on the GPU
            if block == 0:
                tl.atomic_add(num_batches_ptr, 1, sem='relaxed')


@kernel
def instance_sums(
        x_ptr, table_ptr, batch, channels, pixels, tiles, parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sum of each part of each row: (parts, B, C)."""
    part, instance, _, channel, mask, first, count, origin, step, inner, pixels = locate(
        tl.program_id(0), channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    total = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for i in tl.range(0, count, loop_unroll_factor=2):
        offsets, within = tile(first + i, mask, origin, step, inner, pixels, BLOCK_N)
        total += load(x_ptr, offsets, within)
    tl.store(table_ptr + (part * batch + instance) * channels + channel, tl.sum(total, 1), mask)


@kernel
def normalize(
        x_ptr, residual_ptr, y_ptr, table_ptr, stored_ptr, running_mean_ptr, running_var_ptr, weight_ptr, bias_ptr,
        gate_weight_ptr, gate_bias_ptr, eps, batch, channels, pixels, tiles, parts, sum_parts,
        NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, RELU: tl.constexpr):
    """Compute y by mu and rstd as stored; where there are running statistics, by these, and store them instead.

    The instance means, which are stored too, are merged from the sums at the start of the table; without a table, a
    program sums its rows itself.
    """
    # last rows first: they are what the pass before has left in the L2 cache
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part, instance, _, channel, mask, first, count, origin, step, inner, pixels = locate(
        program, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    offsets, within = tile(first, mask, origin, step, inner, pixels, BLOCK_N)
    x = load(x_ptr, offsets, within)  # kept: a row of one tile is read once
    index = instance * channels + channel
    if table_ptr is None:
        total = x
        for i in tl.range(1, count, loop_unroll_factor=2):
            more, inside = tile(first + i, mask, origin, step, inner, pixels, BLOCK_N)
            total += load(x_ptr, more, inside)
        mean = tl.sum(total, 1) / pixels
    else:
        mean = merge_parts(table_ptr, index, mask, batch * channels, sum_parts) / pixels
    if part == 0:
        tl.store(stored_ptr + index, mean, mask)
    mu_ptr = stored_ptr + batch * channels
    if running_mean_ptr is None:
        mu = load(mu_ptr, channel, mask)
        rstd = load(mu_ptr + channels, channel, mask)
    else:
        mu = load(running_mean_ptr, channel, mask)
        rstd = 1.0 / tl.sqrt_rn(load(running_var_ptr, channel, mask) + eps)
        if part + instance == 0:
            tl.store(mu_ptr + channel, mu, mask)
            tl.store(mu_ptr + channels + channel, rstd, mask)
    _, scale = _gate_and_scale(mean, rstd, channel, mask, weight_ptr, gate_weight_ptr, gate_bias_ptr)
    bias = load_or(0.0, bias_ptr, channel, mask)
    _write(y_ptr, residual_ptr, offsets, within, x, mu, scale, bias, RELU)
    for i in range(1, count):  # backwards, for the same reason
        offsets, within = tile(first + count - i, mask, origin, step, inner, pixels, BLOCK_N)
        _write(y_ptr, residual_ptr, offsets, within, load(x_ptr, offsets, within), mu, scale, bias, RELU)


@triton.jit
def _pool_gradients(table_ptr, plane, first, count, channels, channel, mask, CHUNK: tl.constexpr):
    """Sum the five arrays of the table of ``gradient_sums`` over ``count`` rows: (BLOCK_R,) each."""
    zero = tl.zeros([CHUNK, mask.shape[0]], tl.float32)
    hd, hdm, gd, ga, a = zero, zero, zero, zero, zero
    for start in range(0, count, CHUNK):
        _, _, at, within = table_rows(start, first, count, channels, channel, mask, CHUNK)
        hd += load_shared(table_ptr, at, within)
        hdm += load_shared(table_ptr + plane, at, within)
        gd += load_shared(table_ptr + 2 * plane, at, within)
        ga += load_shared(table_ptr + 3 * plane, at, within)
        a += load_shared(table_ptr + 4 * plane, at, within)
    return tl.sum(hd, 0), tl.sum(hdm, 0), tl.sum(gd, 0), tl.sum(ga, 0), tl.sum(a, 0)


@triton.jit
def _store_gradients(table_ptr, plane, at, mask, hd, hdm, gd, ga, a):
    tl.store(table_ptr + at, hd, mask)
    tl.store(table_ptr + plane + at, hdm, mask)
    tl.store(table_ptr + 2 * plane + at, gd, mask)
    tl.store(table_ptr + 3 * plane + at, ga, mask)
    tl.store(table_ptr + 4 * plane + at, a, mask)


@kernel
def gradient_sums(
        dy_ptr, x_ptr, y_ptr, d_residual_ptr, table_ptr, counter_ptr, stored_ptr, weight_ptr, bias_ptr,
        gate_weight_ptr, gate_bias_ptr, d_weight_ptr, d_bias_ptr, d_gate_weight_ptr, d_gate_bias_ptr,
        batch, channels, pixels, tiles, parts, group, NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr,
        BLOCK_N: tl.constexpr, RELU: tl.constexpr, CHUNK: tl.constexpr):
    """Sum A = dy and D = dy * (x - mu) over each part of each row; compute from them all gradients of (C,); mask dy.

    With h = g * (1 - g), the table holds h·D, h·D·m, g·D, g·A and A, behind two rows (C,) for ``input_gradient``: the
    constant and the slope of dx. It leaves out gradients without a pointer.
    """
    part, instance, block, channel, mask, first, count, origin, step, inner, pixels = locate(
        tl.program_id(0), channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    mu_ptr = stored_ptr + batch * channels
    mu = load(mu_ptr, channel, mask)
    rstd = load(mu_ptr + channels, channel, mask)
    mean = load(stored_ptr, instance * channels + channel, mask)
    gate, scale = _gate_and_scale(mean, rstd, channel, mask, weight_ptr, gate_weight_ptr, gate_bias_ptr)
    bias = load_or(0.0, bias_ptr, channel, mask)
    a = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    d = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    # a second tile in flight hides latency; for three tensors it takes more registers than four programs per SM have
    unroll: tl.constexpr = 2 if y_ptr is None else 1
    for i in tl.range(0, count, loop_unroll_factor=unroll):
        offsets, within = tile(first + i, mask, origin, step, inner, pixels, BLOCK_N)
        dy, x = _gradient(dy_ptr, x_ptr, y_ptr, offsets, within, mu, scale, bias, RELU)
        store(d_residual_ptr, offsets, dy, within)
        a += dy
        d += dy * x
    a = tl.sum(a, 1)
    d = tl.sum(d, 1)

    entries = parts * batch
    groups = tl.cdiv(entries, group)
    entry = part * batch + instance
    plane = (entries + groups).to(tl.int64) * channels
    constant_ptr = table_ptr
    slope_ptr = table_ptr + channels
    table_ptr += 2 * channels
    hd = gate * (1 - gate) * d
    _store_gradients(table_ptr, plane, entry * channels + channel, mask, hd, hd * mean, gate * d, gate * a, a)

    number = entry // group
    counter_ptr += block * (groups + 1)
    first = number * group
    count = tl.minimum(group, entries - first)
    last = is_last(counter_ptr + number, count)
    if last & (groups > 1):
        hd, hdm, gd, ga, a = _pool_gradients(table_ptr, plane, first, count, channels, channel, mask, CHUNK)
        _store_gradients(table_ptr, plane, (entries + number) * channels + channel, mask, hd, hdm, gd, ga, a)
        last = is_last(counter_ptr + groups, groups)
        first = entries
        count = groups
    if last:
        hd, hdm, gd, ga, a = _pool_gradients(table_ptr, plane, first, count, channels, channel, mask, CHUNK)
        factor = rstd * load_or(1.0, weight_ptr, channel, mask)
        size = batch * pixels.to(tl.float32)
        store(d_weight_ptr, channel, rstd * gd, mask)
        store(d_bias_ptr, channel, a, mask)
        store(d_gate_weight_ptr, channel, factor * hdm, mask)
        store(d_gate_bias_ptr, channel, factor * hd, mask)
        tl.store(constant_ptr + channel, -factor / size * ga, mask)
        tl.store(slope_ptr + channel, -factor / size * rstd * rstd * gd, mask)


@kernel
def input_gradient(
        dy_ptr, x_ptr, y_ptr, dx_ptr, table_ptr, stored_ptr, weight_ptr, bias_ptr, gate_weight_ptr, gate_bias_ptr,
        batch, channels, pixels, tiles, parts, sum_parts, NHWC: tl.constexpr, VEC: tl.constexpr,
        BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, RELU: tl.constexpr, BY_BATCH: tl.constexpr):
    """Compute dx = s * dy + tau, and where mu and var are the batch's, + slope * (x - mu) + constant."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    _, instance, _, channel, mask, first, count, origin, step, inner, pixels = locate(
        program, channels, pixels, tiles, parts, NHWC, VEC, BLOCK_R, BLOCK_N)
    index = instance * channels + channel
    mu_ptr = stored_ptr + batch * channels
    mu = load(mu_ptr, channel, mask)
    rstd = load(mu_ptr + channels, channel, mask)
    mean = load(stored_ptr, index, mask)
    _, scale = _gate_and_scale(mean, rstd, channel, mask, weight_ptr, gate_weight_ptr, gate_bias_ptr)
    bias = load_or(0.0, bias_ptr, channel, mask)
    hd = merge_parts(table_ptr + 2 * channels, index, mask, batch * channels, sum_parts)
    factor = rstd * load_or(1.0, weight_ptr, channel, mask)
    shift = load(gate_weight_ptr, channel, mask) * factor / pixels * hd
    if BY_BATCH:
        shift += load(table_ptr, channel, mask)
        slope = load(table_ptr + channels, channel, mask)
    for i in range(0, count):
        offsets, within = tile(first + i, mask, origin, step, inner, pixels, BLOCK_N)
        dy, x = _gradient(dy_ptr, x_ptr, y_ptr, offsets, within, mu, scale, bias, RELU)
        dx = scale[:, None] * dy + shift[:, None]
        if BY_BATCH:
            dx += slope[:, None] * x
        store(dx_ptr, offsets, dx, within)
