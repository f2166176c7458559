"""Small networks with weights for the tests of conversion, and the command as a user calls it."""
from pathlib import Path
from typing import Any, List, Tuple

import timm
import torch
from torch import Tensor, nn

import iebn_zoo  # noqa: F401  registers
from iebn_zoo.cli import main
from tests.support.conversion.folded_networks import react
from tests.support.models.cases import randomize

SMALL = dict(num_classes=3, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
KWARGS = ['--model-kwargs', 'layers=[1,1,1,1]', 'channels=[8,8,16,16]']
CONVERTED = {'README.md', 'config.json', 'conversion.json', 'golden.safetensors', 'model.safetensors'}
FOLDED = CONVERTED - {'conversion.json'} | {'fold_report.csv', 'fold_report.json', 'gates.png'}


def bn_network(name: str = 'resnet18', **kwargs: Any) -> nn.Module:
    """A BN network whose norms all differ from their initial values."""
    torch.manual_seed(0)
    return randomize(timm.create_model(name, **{**SMALL, **kwargs})).eval()


def iebn_network(name: str = 'iebn_resnet18', **kwargs: Any) -> nn.Module:
    """An IEBN network whose gates react to the image."""
    torch.manual_seed(0)
    return react(timm.create_model(name, **{**SMALL, **kwargs})).eval()


def saved(model: nn.Module, path: Path) -> Path:
    """The state dict of ``model`` as a file."""
    torch.save(model.state_dict(), path)
    return path


def convert(capsys: Any, *argv: Any) -> Tuple[int, str, str]:
    """Exit code, stdout and stderr of ``iebn-zoo convert``."""
    code = main(['convert', *map(str, argv)])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def load(directory: Path, **kwargs: Any) -> nn.Module:
    """The directory as a user loads it."""
    return timm.create_model(f'local-dir:{directory}', pretrained=True, **kwargs).eval()


@torch.no_grad()
def relative_difference(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    """Largest difference of the logits, as a part of the largest logit of ``b``."""
    expected = b(x)
    return float((a(x) - expected).abs().max() / expected.abs().max())


def leftovers(directory: Path) -> List[str]:
    """What stands in a directory, hidden names too."""
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []
