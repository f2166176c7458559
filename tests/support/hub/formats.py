"""TorchScript files of a stranger, and small networks for the formats."""
import io
import zipfile
from pathlib import Path
from typing import Callable, Optional, Tuple

import timm
import torch
from torch import nn

from iebn_zoo.hub.card.network_facts import NetworkFacts, network_facts

FORMATS = ('onnx', 'torchscript', 'openvino')
CONFIG = dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25], interpolation='bilinear', crop_pct=1.0, crop_mode='center')


def small_network(arch: str = 'iebn_resnet20_cifar', size: Tuple[int, int, int] = (3, 32, 32), classes: int = 4,
                  **model_args) -> Tuple[nn.Module, NetworkFacts]:
    """A network in eval mode with gates that depend on the image, and what it says of itself."""
    torch.manual_seed(0)
    model_args.update(num_classes=classes, in_chans=size[0], **({'layers': [1, 1, 1]} if '20_cifar' in arch else {}))
    model = timm.create_model(arch, **model_args).eval()
    for name, parameter in model.named_parameters():
        if 'gate' in name:
            nn.init.normal_(parameter)
    data = dict(CONFIG, input_size=list(size), mean=CONFIG['mean'][:size[0]], std=CONFIG['std'][:size[0]])
    return model, network_facts(model, arch, model_args, data, [f'class {i}' for i in range(classes)])


class Reading(nn.Module):
    """Computes, and reads a file beside it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + torch.from_file('secret', False, 3)


class Writing(nn.Module):
    """Computes, and writes a file while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    @torch.jit.export
    def __getstate__(self) -> int:
        return 3

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False
        torch.save(state, 'written')


class Other(nn.Module):
    """Computes something that no network of ours computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).erfinv()


def rewritten(path: Path, change: Callable[[str, bytes], Optional[bytes]], compression: int = zipfile.ZIP_STORED,
              twice: bool = False) -> None:
    """Write an archive anew; ``change`` gives the content of each entry, or None to leave it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, 'w', compression) as new:
        for entry in old.infolist():
            content = change(entry.filename, old.read(entry))
            for _ in range(0 if content is None else 1 + (twice and entry.filename.endswith('data.pkl'))):
                new.writestr(entry.filename, content)
    path.write_bytes(out.getvalue())
