"""Mutates files of weights and exports, and lets every reader open them.

    python -m tests.weights.mutations --count 10000 --log scripts/benchmarks/weights_mutations.txt

Each case is drawn from a seed: a kind of file, a mutation of its bytes, tensors, names, types, fields or JSON. A reader
may refuse it by an IEBNZooError of at most three lines, or open what the file says; anything else is a finding:

- crash: another exception;
- hang: more than ``--limit`` seconds;
- altered: a checkpoint with a checksum was opened with another meaning than the one it was written with;
- misread: what was opened is not what an independent reader finds in the file;
- impossible: weights that are not finite, or a variance below zero.

An export that was opened with another meaning is counted apart: its golden.safetensors tells, which ``iebn_zoo.verify``
looks at. ``PROVERS`` holds such checks: functions of the directory that raise where it is not what was exported.
"""
import argparse
import collections
import copy
import json
import math
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import iebn_zoo
from iebn_zoo.models import load_reference_checkpoint
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.file import read_weights_file
from iebn_zoo.weights.open import Network, open_network, start_network
from tests.support.hub.exported import make_export
from tests.support.weights.files import ARCH, DATA, checkpoint, iebn_network

SMALL = dict(num_classes=3, layers=[1, 1, 1], channels=[4, 4, 8], stem_width=4)
LABELS = ['ant', 'bee', 'cat']
PROVERS: List[Callable[[Path], Any]] = [iebn_zoo.verify]
JUNK: List[Any] = [
    None, True, 0, -1, 1, 2, 10**6, 10**18, 10**400, 0.5, -0.0, 1e308, math.nan, math.inf, '', 'x', 'a/b', '../..',
    'http://127.0.0.1:9/x', '\ud800', 'x' * 10**4, [], [1], [1, 1, 1], [0, 0, 0], ['a'] * 3, [[1]], {}, {'a': 1}, 'avg',
    {'pretrained': True}, [None] * 3, [10**7] * 3, 'paper', 'batchnorm2d']
FIELDS = ('arch', 'model_args', 'state_dict', 'epoch', 'schema', 'checksum', 'label_names', 'data_config', 'position')
Findings = List[Tuple[str, str]]


class Hang(Exception):
    """A case took too long."""


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


def independent(path: Path) -> Dict[str, np.ndarray]:
    """The tensors of a safetensors file, read by its specification, without the library; 16 bit floats are left out."""
    data = path.read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    kinds = {'F32': np.float32, 'F64': np.float64, 'I64': np.int64, 'F16': np.float16}
    found = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != '__metadata__' and entry['dtype'] in kinds:
            begin, end = entry['data_offsets']
            raw = np.frombuffer(data[8 + length + begin:8 + length + end], kinds[entry['dtype']])
            found[name] = raw.reshape(entry['shape'])
    return found


def equal(own: Tensor, value: np.ndarray) -> bool:
    """Whether a tensor is what the file has; torch takes one number of shape (1,) for a scalar."""
    value = value.reshape(own.shape) if value.size == own.numel() == 1 else value
    return np.array_equal(own.numpy().astype(np.float64), value.astype(np.float64))


class Case:
    """One kind of file, and how it is mutated, opened and judged.

    Args:
        folder: Where it stands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = timm.create_model(ARCH, **SMALL)
        model.load_state_dict(iebn_network(**{k: v for k, v in SMALL.items() if k != 'num_classes'}).state_dict())
        self.state = {k: v.clone() for k, v in model.state_dict().items()}
        self.content = checkpoint(model_args=dict(SMALL), state_dict=self.state, label_names=LABELS)

    def readers(self, path: Path) -> Dict[str, Callable[[], Any]]:
        return {
            'open': lambda: open_network(checkpoint=path),
            'read': lambda: read_weights_file(path).state_dict,
            'start': lambda: start_network(ARCH, False, SMALL, path)[0].state_dict(),
            'reference': lambda: load_reference_checkpoint(timm.create_model(ARCH, **SMALL), path).state_dict()}

    def possible(self, state: Dict[str, Tensor]) -> Findings:
        return [('impossible', name) for name, v in state.items() if v.is_floating_point() and (
            not torch.isfinite(v.float()).all() or (name.endswith('running_var') and (v.float() < 0).any()))]

    def same(self, state: Dict[str, Tensor], expected: Optional[Dict[str, Tensor]] = None) -> bool:
        expected = self.state if expected is None else expected
        return state.keys() == expected.keys() and all(
            torch.equal(state[k].double(), expected[k].double()) for k in expected)


class Ours(Case):
    """A checkpoint of our training, whose checksum finds every change."""

    def make(self, rng: random.Random) -> Tuple[Path, Any]:
        path = self.folder / LAST
        save_checkpoint(path, self.content)
        if rng.random() < 0.6:
            path.write_bytes(bits(rng, path.read_bytes()))
        else:
            content = torch.load(path, weights_only=True)
            field = rng.choice(FIELDS)
            if field == 'state_dict':
                content[field] = tensors(rng, content[field])
            else:
                content = {**content, field: values(rng, content.get(field))}
            torch.save(content, path)
        return path, None

    def readers(self, path: Path) -> Dict[str, Callable[[], Any]]:
        return {**super().readers(path), 'resume': lambda: load_checkpoint(path)['state_dict']}

    def judge(self, path: Path, expected: Any, opened: Any) -> Findings:
        if not isinstance(opened, Network):
            return [] if self.same(opened) else [('altered', 'weights')]
        told = (opened.label_names, opened.data_config, opened.arch, opened.model.num_classes)
        return ([] if self.same(opened.model.state_dict()) else [('altered', 'weights')]) + (
            [] if told == (LABELS, DATA, ARCH, 3) else [('altered', str(told))])


class Strangers(Case):
    """A checkpoint of our layout by somebody else: its checksum is right, its content anything."""

    def make(self, rng: random.Random) -> Tuple[Path, Any]:
        content = dict(self.content)
        field = rng.choice([name for name in FIELDS if name not in ('schema', 'checksum')])
        content[field] = tensors(rng, content[field]) if field == 'state_dict' else values(rng, content.get(field))
        path = self.folder / LAST
        save_checkpoint(path, content)
        return path, content

    def judge(self, path: Path, expected: Any, opened: Any) -> Findings:
        if not isinstance(opened, Network):
            return self.possible(opened)
        told = expected['label_names']
        found = self.possible(opened.model.state_dict())
        return found if (opened.label_names or []) == list(told or []) else [*found, ('misread', 'label_names')]


class Plain(Case):
    """Tensors alone in a file of torch, or timm's checkpoint: nothing tells whether they were changed."""

    def make(self, rng: random.Random) -> Tuple[Path, Any]:
        path = self.folder / 'model_best.pth.tar'
        args = argparse.Namespace(model=ARCH, model_kwargs=dict(SMALL), mean=[0.5] * 3, img_size=32)
        content: Dict[str, Any] = rng.choice((
            dict(arch=ARCH, state_dict=self.state, args=args), {'model': self.state}, {'state_dict': self.state},
            self.state))
        key = next((k for k in ('state_dict', 'model') if k in content), None)
        content = {**content, key: tensors(rng, content[key])} if key else tensors(rng, content)
        if 'args' in content and rng.random() < 0.3:
            changed = values(rng, dict(vars(args)), 2)
            content['args'] = argparse.Namespace(**changed) if isinstance(changed, dict) else changed
        torch.save(content, path)
        if rng.random() < 0.4:
            path.write_bytes(bits(rng, path.read_bytes()))
        return path, None

    def judge(self, path: Path, expected: Any, opened: Any) -> Findings:
        return self.possible(opened.model.state_dict() if isinstance(opened, Network) else opened)


class Safetensors(Case):
    """A safetensors file: what was opened must be what its specification says is in it."""

    def make(self, rng: random.Random) -> Tuple[Path, Any]:
        path = self.folder / 'weights.safetensors'
        state = tensors(rng, self.state) if rng.random() < 0.5 else self.state
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        if rng.random() < 0.6:
            path.write_bytes(bits(rng, path.read_bytes()))
        return path, None

    def judge(self, path: Path, expected: Any, opened: Any) -> Findings:
        state = opened.model.state_dict() if isinstance(opened, Network) else opened
        found = self.possible(state)
        for name, value in independent(path).items():
            own = state.get(re.sub(r'^(module\.|_orig_mod\.)+', '', name))
            found += [] if own is not None and equal(own, value) else [('misread', name)]
        return found


class Export(Case):
    """An export: config.json and the weights, with golden logits beside them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = make_export(folder / 'whole', num_classes=3)
        self.expected = open_network(f'local-dir:{self.whole}')

    def make(self, rng: random.Random) -> Tuple[Path, Any]:
        made = self.folder / 'made'
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(self.whole, made)
        config, weights = made / 'config.json', made / 'model.safetensors'
        kind = rng.choice(('json', 'json', 'json bytes', 'weights', 'tensors'))
        if kind == 'json':
            config.write_text(json.dumps(values(rng, json.loads(config.read_text()))), errors='surrogatepass')
        elif kind == 'json bytes':
            config.write_bytes(bits(rng, config.read_bytes()))
        elif kind == 'weights':
            weights.write_bytes(bits(rng, weights.read_bytes()))
        else:
            save_file({k: v.contiguous() for k, v in tensors(rng, load_file(weights)).items()}, weights)
        return made, None

    def readers(self, path: Path) -> Dict[str, Callable[[], Any]]:
        return {'directory': lambda: open_network(f'local-dir:{path}'),
                'file': lambda: open_network(checkpoint=path / 'model.safetensors'),
                'start': lambda: start_network(f'local-dir:{path}', True, {})[0].state_dict(),
                'other head': lambda: start_network(f'local-dir:{path}', True, {'num_classes': 7})[0].state_dict()}

    def judge(self, path: Path, expected: Any, opened: Any) -> Findings:
        if not isinstance(opened, Network):
            return self.possible(opened)
        config = json.loads((path / 'config.json').read_text())
        found = self.possible(opened.model.state_dict())
        told = dict(num_classes=opened.model.num_classes, label_names=opened.label_names, architecture=opened.arch)
        found += [('misread', k) for k, v in told.items() if config.get(k) != v and k in config]
        found += [('misread', k) for k in ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')
                  if config['pretrained_cfg'][k] != opened.data_config[k]]
        for name, value in independent(path / 'model.safetensors').items():
            own = opened.model.state_dict().get(name.replace('module.', '').replace('_orig_mod.', ''))
            found += [] if own is not None and equal(own, value) else [('misread', name)]
        return found

    def changed(self, path: Path, opened: Any) -> Optional[str]:
        """'logits' or 'settings' where an opened export has another meaning, None where it has not."""
        if not isinstance(opened, Network):
            return None
        golden = load_file(path / 'golden.safetensors')
        try:
            with torch.inference_mode():
                logits = opened.model(golden['input'])
        except RuntimeError:
            return 'logits'
        if logits.shape != golden['logits'].shape or not (logits - golden['logits']).abs().max() <= 1e-4:
            return 'logits'
        e = self.expected
        same = (opened.label_names, opened.data_config, opened.arch) == (e.label_names, e.data_config, e.arch)
        return None if same else 'settings'


CASES = (Ours, Strangers, Plain, Safetensors, Export)


def run(count: int, seed: int = 0, limit: float = 5.) -> Tuple[collections.Counter, List[str]]:
    """Open ``count`` mutations with every reader of their kind.

    Args:
        count: Of mutations.
        seed: Of the draw; case i depends on the seed and i alone.
        limit: Seconds that one opening may take.

    Returns:
        Outcomes by kind, and the findings, one a line.
    """
    outcomes: collections.Counter = collections.Counter()
    findings: List[str] = []

    def alarm(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with tempfile.TemporaryDirectory() as temp:
            cases = []
            for kind in CASES:
                (Path(temp) / kind.__name__).mkdir()
                cases.append(kind(Path(temp) / kind.__name__))
            for i in range(count):
                rng = random.Random(f'{seed} {i}')
                case: Any = rng.choice(cases)
                name = type(case).__name__
                try:
                    path, expected = case.make(rng)
                except Exception:  # torch, safetensors or JSON cannot write this one
                    outcomes[name, 'not written'] += 1
                    continue
                for reader, call in case.readers(path).items():
                    where = f'case {i} ({name}, {reader})'
                    signal.setitimer(signal.ITIMER_REAL, limit)
                    try:
                        opened = call()
                    except IEBNZooError as e:
                        outcomes[name, 'refused'] += 1
                        if not 1 < len(str(e).splitlines()) <= 3 or len(str(e)) > 1000:
                            findings.append(f'{where}: message: {str(e)[:300]!r}')
                        continue
                    except Hang:
                        findings.append(f'{where}: hang')
                        continue
                    except Exception as e:
                        findings.append(f'{where}: crash: {type(e).__name__}: {str(e)[:200]!r} '
                                        f'at {traceback.extract_tb(e.__traceback__)[-1][:2]}')
                        continue
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    outcomes[name, 'opened'] += 1
                    findings += [f'{where}: {kind}: {what}' for kind, what in case.judge(path, expected, opened)]
                    meaning = case.changed(path, opened) if isinstance(case, Export) else None
                    if meaning:
                        outcomes[name, f'opened with other {meaning}: for verify'] += 1
                        for prover in PROVERS:
                            try:
                                prover(path)
                                findings.append(f'{where}: {prover.__name__} did not find other {meaning}')
                            except IEBNZooError:
                                outcomes[name, f'found by {prover.__name__}'] += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    return outcomes, findings


def main(argv: Optional[List[str]] = None) -> int:
    """Run, print, and exit with 1 where there are findings."""
    parser = argparse.ArgumentParser(description='Mutate files of weights and open them with every reader.')
    parser.add_argument('--count', type=int, default=10000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--limit', type=float, default=5., help='seconds that one opening may take')
    parser.add_argument('--log', help='file to write the result to')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    outcomes, findings = run(args.count, args.seed, args.limit)
    lines = [f'{args.count} mutations, seed {args.seed}, limit {args.limit:g} s an opening; iebn-zoo '
             f'{iebn_zoo.__version__}, timm {timm.__version__}, torch {torch.__version__}; '
             f'{time.perf_counter() - started:.0f} s']
    lines += [f'{kind:<12} {what:<45} {n:>7}' for (kind, what), n in sorted(outcomes.items())]
    lines += [f'findings: {len(findings)}', *findings]
    print('\n'.join(lines))
    if args.log:
        Path(args.log).write_text('\n'.join(lines) + '\n')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
