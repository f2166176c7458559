"""Makes a directory as export writes it, from a model with random weights, in a second."""
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models._hub import save_for_hf

import iebn_zoo  # noqa: F401 - registers the models

ARCHITECTURE = 'iebn_resnet20_cifar'


def make_export(directory: Path, seed: int = 0, num_classes: int = 4) -> Path:
    """Write a valid export of ``iebn_resnet20_cifar``; another ``seed`` gives other weights, logits and card."""
    torch.manual_seed(seed)
    model = timm.create_model(ARCHITECTURE, num_classes=num_classes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'gate' in name:  # at their initial values the gates do not depend on the image
                parameter.add_(torch.randn_like(parameter))
        model.train()(torch.randn(8, *model.default_cfg['input_size']))
        inputs = torch.randn(2, *model.default_cfg['input_size'])
        logits = model.eval()(inputs)
    labels = [f'class {i}' for i in range(num_classes)]
    model.pretrained_cfg['num_classes'] = num_classes  # timm 1.0.20 would leave the architecture's default there
    save_for_hf(model, str(directory), model_config={'label_names': labels}, safe_serialization=True)
    safetensors.torch.save_file({'input': inputs, 'logits': logits}, directory / 'golden.safetensors', {'format': 'pt'})
    (directory / 'summary.csv').write_text(f'epoch,train_loss,eval_top1\n0,1.4,{20 + seed}\n')
    (directory / 'curves.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(range(200)))
    (directory / 'README.md').write_text(str(_card(20.0 + seed)))
    return directory


def _card(top1: float) -> ModelCard:
    result: Any = EvalResult(task_type='image-classification', dataset_type='cifar100', dataset_name='CIFAR-100',
                             metric_type='accuracy', metric_value=top1)
    data = ModelCardData(license='apache-2.0', library_name='timm', pipeline_tag='image-classification',
                         tags=['image-classification', 'timm'], model_name=ARCHITECTURE, eval_results=[result])
    return ModelCard(f'---\n{data.to_yaml()}\n---\n# A model of the tests\n')
