"""Mutates bytes, tensors and plain values; every change is drawn from a random generator."""
import copy
import math
import random
from typing import Any, Dict, List

import torch
from torch import Tensor

JUNK: List[Any] = [
    None, True, 0, -1, 1, 2, 10**6, 10**18, 10**400, 0.5, -0.0, 1e308, math.nan, math.inf, '', 'x', 'a/b', '../..',
    'http://127.0.0.1:9/x', '\ud800', 'x' * 10**4, [], [1], [1, 1, 1], [0, 0, 0], ['a'] * 3, [[1]], {}, {'a': 1}, 'avg',
    {'pretrained': True}, [None] * 3, [10**7] * 3, 'paper', 'batchnorm2d']


def bits(rng: random.Random, data: bytes) -> bytes:
    """Bytes with a flip, a cut, a gap, an addition or a block of something else."""
    changed, at = bytearray(data), rng.randrange(max(1, len(data)))
    size = rng.choice((1, 1, 4, 64, 1000))
    kind = rng.choice(('bit', 'bit', 'bit', 'byte', 'bits', 'cut', 'gap', 'more', 'zeros', 'block', 'swap'))
    if kind == 'bit' and changed:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 'byte' and changed:
        changed[at] = rng.randrange(256)
    elif kind == 'bits' and changed:
        for _ in range(8):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 'cut':
        del changed[at:]
    elif kind == 'gap':
        del changed[at:at + size]
    elif kind == 'more':
        changed[at:at] = rng.randbytes(size)
    elif kind == 'zeros':
        changed[at:at + size] = bytes(len(changed[at:at + size]))
    elif kind == 'block':
        changed[at:at + size] = rng.randbytes(len(changed[at:at + size]))
    elif kind == 'swap':
        other = rng.randrange(max(1, len(data)))
        changed[at:at + size], changed[other:other + size] = changed[other:other + size], changed[at:at + size]
    return bytes(changed)


def tensors(rng: random.Random, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """A state dict with one tensor changed, gone, added or under another name."""
    state = dict(state)
    name = rng.choice(sorted(state))
    value = state[name].clone()
    kind = rng.choice(('value', 'bit', 'negate', 'shape', 'dtype', 'gone', 'name', 'more', 'order', 'empty', 'wrapped',
                       'gates', 'statistics', 'swap'))
    if kind == 'value':
        value.view(-1)[rng.randrange(max(1, value.numel()))] = rng.choice((math.nan, math.inf, -1., 1e38, 0.)) \
            if value.is_floating_point() else rng.choice((-1, 2**40))
    elif kind == 'bit' and value.is_floating_point():
        flat = value.view(-1).view(torch.int32)
        flat[rng.randrange(flat.numel())] ^= 1 << rng.randrange(31)
    elif kind == 'negate':
        value = -value
    elif kind == 'shape':
        flat = value.reshape(-1)
        more = (value.transpose(0, -1), torch.cat([value, value])) if value.dim() else ()
        value = rng.choice((value.unsqueeze(0), flat, flat[:1], torch.cat([flat, flat]), *more))
    elif kind == 'dtype':
        value = value.to(rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64,
                                     torch.int32, torch.uint8, torch.bool)))
    elif kind == 'order' and value.dim():
        value = value.roll(1, 0)
    elif kind == 'empty':
        value = value.new_empty(0)
    state[name] = value
    if kind in ('gone', 'name'):
        del state[name]
    if kind == 'name':
        state[rng.choice((name.upper(), f'x.{name}', f'{name}.x', name[:-1], 'module.' + name))] = value
    elif kind == 'more':
        state[rng.choice(('one.more', 'module.fc.bias', 'layer1.0.bn1.running_mean', 'layer9.0.conv1.weight'))] = value
    elif kind == 'wrapped':
        state = {f'{rng.choice(("module.", "_orig_mod.", "module._orig_mod."))}{k}': v for k, v in state.items()}
    elif kind in ('gates', 'statistics'):
        word = 'gate' if kind == 'gates' else 'running'
        owner = '' if rng.random() < 0.5 else name.rpartition('.')[0]
        state = {k: v for k, v in state.items() if word not in k or not k.startswith(owner)}
    elif kind == 'swap':
        same = [k for k in state if state[k].shape == value.shape and k != name]
        if same:
            other = rng.choice(same)
            state[name], state[other] = state[other], value
    return state


def values(rng: random.Random, content: Any, depth: int = 3) -> Any:
    """Nested plain values with one of them changed, gone, added, under another name, or nested."""
    content = copy.copy(content)
    if depth and isinstance(content, (dict, list)) and content and rng.random() < 0.7:
        key = rng.choice(sorted(content, key=str)) if isinstance(content, dict) else rng.randrange(len(content))
        content[key] = values(rng, content[key], depth - 1)
        return content
    if isinstance(content, dict) and rng.random() < 0.5:
        kind = rng.choice(('gone', 'name', 'more'))
        key = rng.choice(sorted(content, key=str)) if content else 'x'
        if kind == 'more':
            content[rng.choice(('pretrained', 'url', 'num_classes', 'features_only', 'x', 5, 'in_chans', 'file'))] = \
                rng.choice(JUNK)
        elif content:
            value = content.pop(key)
            if kind == 'name':
                content[f'{key}x'] = value
        return content
    if rng.random() < 0.1:
        for _ in range(rng.choice((3, 50, 5000))):
            content = [content]
        return content
    return rng.choice(JUNK)
