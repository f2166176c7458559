# ruff: noqa: ANN001, ANN201 - what a Triton function takes are pointers and numbers of Triton's own
# pyright: reportGeneralTypeIssues=false
# because Triton's stub takes tl.range for no iterable
"""What the kernels of ``triton_kernels`` share: how x is cut, and how programs hand each other their results.

Both memory layouts are cut into tiles of [BLOCK_R rows, BLOCK_N pixels]; a row is the N = H·W values of one instance
and channel, and the rows of a tile are neighbouring channels of one instance, a channel block. In NCHW pixels are
adjacent; in NHWC, torch's channels_last, channels are. A program walks ``tiles`` tiles of its rows; ``parts`` programs
share the same rows.

A reduction leaves a table, one array (entries + groups, C) per quantity: entry part·B + b comes from one program per
channel block. The last program to arrive in a group of ``group`` entries merges them into the group's row, and the last
of these merges the groups' rows, always in the order of the rows: equal input, equal bits.
"""
import triton
import triton.language as tl


@triton.jit
def locate(program, channels, pixels, tiles, parts,
           NHWC: tl.constexpr, VEC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """Find a program's part, instance and channel block; channels, mask (BLOCK_R,); first tile, count; addressing.

    Tile t begins ``origin`` + t * BLOCK_N * ``step`` values into the tensor; ``inner`` are the offsets within a tile.
    These fit 32 bits, ``origin`` and ``step`` may not.
    """
    part = program % parts
    row = tl.arange(0, BLOCK_R)
    pixel = tl.arange(0, BLOCK_N)
    # // VEC * VEC changes no value: it shows the compiler the divisor that vector loads need
    if NHWC:
        channels = channels // VEC * VEC
    else:
        pixels = pixels // VEC * VEC
    blocks = tl.cdiv(channels, BLOCK_R)
    instance = program // parts // blocks
    block = program // parts % blocks
    channel = block * BLOCK_R + row
    if NHWC:
        step = channels.to(tl.int64)
        origin = instance * (pixels * step) + block * BLOCK_R
        inner = row[:, None] + pixel[None, :] * channels
    else:
        step = 1
        origin = (instance * channels + block * BLOCK_R) * pixels.to(tl.int64)
        inner = row[:, None] * pixels + pixel[None, :]
    first = part * tiles
    count = tl.minimum(tl.cdiv(pixels, BLOCK_N) - first, tiles)
    return part, instance, block, channel, channel < channels, first, count, origin, step, inner, pixels


@triton.jit
def tile(number, mask, origin, step, inner, pixels, BLOCK_N: tl.constexpr):
    """Compute offsets and mask, (BLOCK_R, BLOCK_N), of a tile; ``mask`` and what follows as from ``locate``."""
    start = number * BLOCK_N
    return origin + start * step + inner, mask[:, None] & (start + tl.arange(0, BLOCK_N) < pixels)[None, :]


@triton.jit
def load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask, 0.0).to(tl.float32)


@triton.jit
def load_shared(ptr, offsets, mask):
    # what other programs of this launch have written: past the L1 cache, which does not see their stores
    return tl.load(ptr + offsets, mask, 0.0, cache_modifier='.cg')


@triton.jit
def store(ptr, offsets, value, mask):
    if ptr is not None:
        tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask)


@triton.jit
def load_or(default, ptr, channel, mask):
    """Load a parameter, or the number that stands for None."""
    return tl.full(mask.shape, default, tl.float32) if ptr is None else load(ptr, channel, mask)


@triton.jit
def merge_parts(ptr, index, mask, plane, parts):
    """Sum of the parts, each ``plane`` = B·C behind the other."""
    total = load(ptr, index, mask)
    for part in tl.range(1, parts, loop_unroll_factor=4):
        total += load(ptr + part * plane, index, mask)
    return total


@triton.jit
def is_last(counter_ptr, arrivals):
    """Whether this program is the last of ``arrivals`` that come here. Then the counter is 0 again.

    The last may ``load_shared`` what each of them stored before: the barrier puts the stores of all threads before the
    atomic, which releases them to the GPU, and acquires those of the programs that came earlier.
    """
    tl.debug_barrier()
    last = tl.atomic_add(counter_ptr, 1, sem='acq_rel', scope='gpu') == arrivals - 1
    if last:  # nobody else will touch it in this launch
        tl.store(counter_ptr, 0)
    return last


@triton.jit
def table_rows(start, first, count, channels, channel, mask, CHUNK: tl.constexpr):
    """Compute numbers and mask, (CHUNK,), of rows of a table; offsets and mask, (CHUNK, BLOCK_R), of their values."""
    row = start + tl.arange(0, CHUNK)
    inside = row < count
    return first + row, inside, (first + row)[:, None] * channels + channel[None, :], inside[:, None] & mask[None, :]
