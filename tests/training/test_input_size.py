"""A run on images that are not square, from the training to a network that timm loads."""
import json

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from iebn_zoo.commands.train import main as train
from iebn_zoo.commands.validate import main as validate
from iebn_zoo.hub.package.export import export
from iebn_zoo.prediction.predict import predict
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

SIZE = [3, 24, 40]


def test_images_that_are_not_square_from_training_to_timm(image_folder, tmp_path, capsys):
    runs = [tmp_path / name for name in ('device', 'loader')]
    more = ('--input-size', '3', '24', '40', '--model-kwargs', 'layers=(1,1,1)', '--mixup', '0.2', '--cutmix', '0.5',
            '--reprob', '0.3', '--model-ema')
    train(flags(image_folder, runs[0], *more, '--device-data'))
    train(flags(image_folder, runs[1], *more, '--no-device-data'))
    assert compare_runs(*runs) == []
    assert load_checkpoint(runs[0] / LAST)['data_config']['input_size'] == SIZE
    capsys.readouterr()
    validate(['--checkpoint', str(runs[0] / LAST), '--data-dir', str(image_folder), '--device', 'cpu', '-j', '0'])
    measured, last = json.loads(capsys.readouterr().out), load_checkpoint(runs[0] / LAST)['rows'][-1]
    assert measured['input_size'] == SIZE and abs(measured['loss'] - last['eval_loss']) < 1e-6
    made, _ = export(runs[0], tmp_path / 'export')
    assert json.loads((made / 'config.json').read_text())['pretrained_cfg']['input_size'] == SIZE
    model = timm.create_model(f'local-dir:{made}', pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model.pretrained_cfg))
    path = next((image_folder / 'test').rglob('*.png'))
    images = transform(Image.open(path))[None]
    assert list(images.shape[1:]) == SIZE
    with torch.inference_mode():
        expected = model(images).softmax(1)[0]
    found, = predict(made, [path], top_k=3)
    assert torch.allclose(torch.tensor(found.probabilities), expected[list(found.classes)], atol=1e-6)


def test_a_network_of_another_size_is_refused_before_the_directory_is_touched(image_folder, tmp_path):
    with pytest.raises(UsageError, match='(?s)3 x 48 x 32.*img_size='):
        train(flags(image_folder, tmp_path / 'run', '--model', 'vit_tiny_patch16_224', '--input-size', '3', '48', '32'))
    assert not (tmp_path / 'run').exists()
