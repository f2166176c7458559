"""Makes a directory as export writes it, from a model with random weights, in a second."""
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import timm
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open
from timm.models import save_for_hf

import iebn_zoo  # noqa: F401 - registers the models
from iebn_zoo.hub.card.mark import with_mark
from iebn_zoo.hub.package.golden import file_digest, save_golden, write_golden
from iebn_zoo.weights.settings import cfg_of, set_cfg

ARCHITECTURE = 'iebn_resnet20_cifar'


def make_export(directory: Path, seed: int = 0, num_classes: int = 4, **model_args: Any) -> Path:
    """Write a valid export of ``iebn_resnet20_cifar``; another ``seed`` gives other weights, logits and card."""
    torch.manual_seed(seed)
    model = timm.create_model(ARCHITECTURE, num_classes=num_classes, **model_args)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'gate' in name:  # at their initial values the gates do not depend on the image
                parameter.add_(torch.randn_like(parameter))
        model.train()(torch.randn(8, *cfg_of(model)['input_size']))
    labels = [f'class {i}' for i in range(num_classes)]
    model.eval()
    set_cfg(model, {**cfg_of(model), 'num_classes': num_classes})  # timm 1.0.20 leaves the architecture's default there
    save_for_hf(model, str(directory), model_config={'label_names': labels}, safe_serialization=True)
    (directory / 'summary.csv').write_text(f'epoch,train_loss,eval_top1\n0,1.4,{20 + seed}\n')
    (directory / 'curves.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(range(200)))
    (directory / 'README.md').write_text(with_mark(str(_card(20.0 + seed))))
    write_golden(directory, model, cfg_of(model), labels)
    return directory


def card_data(text: str) -> SimpleNamespace:
    """Return the metadata of a card."""
    return SimpleNamespace(**vars(ModelCard(text).data))


def edit_golden(directory: Path, change: Callable[[dict, dict], Any] = lambda tensors, metadata: None) -> None:
    """Let ``change`` edit tensors and metadata, bind the files as they now are, and seal it: an exporter gone wrong."""
    path = directory / 'golden.safetensors'
    with safe_open(path, framework='pt') as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    files = {name: file_digest(directory / name) for name in json.loads(metadata['files'])}
    metadata.pop('seal')
    metadata['files'] = json.dumps(files)
    change(tensors, metadata)
    save_golden(path, tensors, metadata)


def bind_files(directory: Path) -> None:
    """Bind the files that now lie in ``directory``, more or fewer than before: an export that wrote these."""
    files = {path.name: file_digest(path) for path in directory.iterdir() if path.name != 'golden.safetensors'}
    path = directory / 'golden.safetensors'
    with safe_open(path, framework='pt') as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    metadata.pop('seal')
    save_golden(path, tensors, {**metadata, 'files': json.dumps(files)})


def _card(top1: float) -> ModelCard:
    result: Any = EvalResult(task_type='image-classification', dataset_type='cifar100', dataset_name='CIFAR-100',
                             metric_type='accuracy', metric_value=top1)
    data = ModelCardData(license='apache-2.0', library_name='timm', pipeline_tag='image-classification',
                         tags=['image-classification', 'timm'], model_name=ARCHITECTURE, eval_results=[result])
    usage = "    timm.create_model('hf-hub:OWNER/NAME', pretrained=True)\n"
    return ModelCard(f'---\n{data.to_yaml()}\n---\n# A model of the tests\n\n{usage}')
