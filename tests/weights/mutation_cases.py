"""The kinds of files that are mutated, each with its readers and with what an opened file must be."""
import argparse
import json
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from iebn_zoo.models import load_reference_checkpoint
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from iebn_zoo.weights.file import read_weights_file
from iebn_zoo.weights.open import Network, open_network, start_network
from tests.support.hub.exported import make_export
from tests.support.weights.files import ARCH, DATA, checkpoint, iebn_network
from tests.weights.mutators import bits, tensors, values

SMALL: Dict[str, Any] = dict(num_classes=3, layers=[1, 1, 1], channels=[4, 4, 8], stem_width=4)
LABELS = ['ant', 'bee', 'cat']
FIELDS = ('arch', 'model_args', 'state_dict', 'epoch', 'schema', 'checksum', 'label_names', 'data_config', 'position')
Findings = List[Tuple[str, str]]


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
