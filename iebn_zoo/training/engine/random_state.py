"""The states of the random generators of this process, for a checkpoint."""
import random
from typing import Any, Dict, Mapping, Tuple

import numpy as np
import torch


def rng_state(device: torch.device) -> Dict[str, Any]:
    """Return the state of every generator of this process, in types that ``weights_only`` reads."""
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state()
    assert isinstance(numpy_state, tuple)
    name, keys, pos, has_gauss, cached = numpy_state
    state = {
        'python': [version, list(internal), gauss],
        'numpy': [str(name), torch.from_numpy(keys.astype(np.int64)), int(pos), int(has_gauss), float(cached)],
        'torch': torch.get_rng_state(),
    }
    if device.type != 'cpu':
        state[device.type] = _of(device).get_rng_state(*_which(device))
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set every generator to the state that ``rng_state`` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, pos, has_gauss, cached = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state['torch'])
    if device.type in state and device.type != 'cpu':
        _of(device).set_rng_state(state[device.type], *_which(device))


def _of(device: torch.device) -> Any:
    return torch.get_device_module(device.type)


def _which(device: torch.device) -> Tuple[torch.device, ...]:
    return () if device.type == 'mps' else (device,)  # torch knows one such device
