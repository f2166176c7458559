"""Files of weights of every kind, of one small network."""
import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import iebn_zoo  # noqa: F401  registers
from iebn_zoo.cli import main
from iebn_zoo.training.run.checkpoint import LAST, save_checkpoint
from tests.support.conversion.folded_networks import react
from tests.support.hub.exported import make_export
from tests.support.models.cases import randomize

ARCH = 'iebn_resnet20_cifar'
ARGS: Dict[str, Any] = dict(num_classes=3, layers=[1, 1, 1])
DATA = dict(input_size=[3, 32, 32], mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25], interpolation='bilinear', crop_pct=1.0,
            crop_mode='center')


def iebn_network(seed: int = 0, **kwargs: Any) -> nn.Module:
    """An IEBN network whose gates react to the image."""
    torch.manual_seed(seed)
    return react(timm.create_model(ARCH, **{**ARGS, **kwargs})).eval()


def bn_network(seed: int = 0, name: str = 'bn_resnet20_cifar', **kwargs: Any) -> nn.Module:
    """Its BN twin, whose norms all differ from their initial values."""
    torch.manual_seed(seed)
    return randomize(timm.create_model(name, **{**ARGS, **kwargs})).eval()


def checkpoint(**changes: Any) -> Dict[str, Any]:
    """What a run saves, as far as a reader looks at it."""
    content = dict(arch=ARCH, model_args=dict(ARGS), state_dict=iebn_network().state_dict(), epoch=2, data_config=DATA,
                   label_names=['ant', 'bee', 'cat'], metrics={}, position=dict(epoch=3, step=0))
    return {**content, **changes}


def as_ours(content: Dict[str, Any], folder: Path) -> Path:
    """A checkpoint of ours, with schema and checksum, and the log that export wants beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / LAST, content)
    (folder / 'summary.csv').write_text('epoch,train_loss,eval_loss,eval_top1,eval_top5\n' + ''.join(
        f'{epoch},1.5,1.25,50.0,90.5\n' for epoch in range(3)))
    return folder / LAST


def as_timms(content: Dict[str, Any], folder: Path) -> Path:
    """As timm's CheckpointSaver writes it: the flags in a Namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    args = argparse.Namespace(model=content['arch'], model_kwargs=dict(content['model_args']), mean=DATA['mean'],
                              std=DATA['std'], img_size=32, interpolation='bilinear', crop_pct=1.0, gp=None)
    torch.save({'epoch': 2, 'arch': content['arch'], 'state_dict': content['state_dict'], 'optimizer': {'state': {}},
                'version': 2, 'args': args, 'metric': 50.}, folder / 'model_best.pth.tar')
    return folder / 'model_best.pth.tar'


def as_state_dict(content: Dict[str, Any], folder: Path) -> Path:
    """The tensors alone."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content['state_dict'], folder / 'weights.pth')
    return folder / 'weights.pth'


def as_model(content: Dict[str, Any], folder: Path) -> Path:
    """The tensors under ``model``, as torchvision's references save them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({'model': content['state_dict'], 'epoch': 2}, folder / 'model.pth')
    return folder / 'model.pth'


def as_safetensors(content: Dict[str, Any], folder: Path) -> Path:
    """The tensors in a safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in content['state_dict'].items()}, folder / 'weights.safetensors')
    return folder / 'weights.safetensors'


def as_wrapped(content: Dict[str, Any], folder: Path) -> Path:
    """With the prefix of DataParallel, as the reference code saves."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': {f'module.{k}': v for k, v in content['state_dict'].items()}, 'best_acc': 77.},
               folder / 'wrapped.pth.tar')
    return folder / 'wrapped.pth.tar'


FORMS: List[Callable[[Dict[str, Any], Path], Path]] = [
    as_ours, as_timms, as_state_dict, as_model, as_safetensors, as_wrapped]


def export_with(folder: Path, change: Callable[[Dict[str, Any]], Any]) -> Path:
    """An export whose config.json was changed."""
    make_export(folder, num_classes=3)
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return folder


def with_config(export: Path, folder: Path, text: str) -> Path:
    """A copy of an export with other text in config.json."""
    shutil.copytree(export, folder)
    (folder / 'config.json').write_text(text, encoding='utf-8', errors='surrogatepass')
    return folder


def run(capsys: Any, *argv: Any) -> Tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    code = main([str(a) for a in argv])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def refused(answer: Tuple[int, str, str], *words: str) -> None:
    """Assert a failure as users must meet it: exit code, at most three lines, the words, no traceback."""
    code, _, err = answer
    message = err[err.index('error: '):].strip() if 'error: ' in err else err
    assert code in (1, 2), answer
    assert message.startswith('error: ') and 2 <= len(message.splitlines()) <= 3 and 'Traceback' not in err, err
    assert all(word in message for word in words), (words, message)


@torch.no_grad()
def same_logits(a: nn.Module, b: nn.Module, tolerance: float = 0.) -> bool:
    """Whether two networks compute the same, to a part of the largest logit."""
    x: Tensor = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = b(x)
    return bool((a(x) - expected).abs().max() <= tolerance * expected.abs().max())
