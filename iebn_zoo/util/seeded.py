"""Random generators that are seeded for one block of code."""
import random
from contextlib import contextmanager
from typing import Iterator, Optional

import numpy as np
import torch


def draw_seed(*key: int) -> int:
    """Return the seed, below 2^63, of the draw that the numbers ``key`` name, such as seed, epoch and batch."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1  # NumPy 1 does not shift its uint64


@contextmanager
def seeded(*key: int, restore: bool = True, cuda: Optional[torch.device] = None) -> Iterator[None]:
    """Seed every generator from ``key`` for the block.

    Args:
        *key: Numbers that name the draw, such as seed, epoch and batch.
        restore: Put the generators back after the block; False in a loader process, where nothing else uses them.
        cuda: Seed the generator of this device too.
    """
    state = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if restore else None
    cuda_state = torch.cuda.get_rng_state(cuda) if cuda is not None else None
    seed = draw_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also queue a seeding of every GPU
    if cuda is not None:
        torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        if state is not None:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])
        if cuda is not None and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)
