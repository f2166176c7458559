"""The gates of given images against the formula, layer by layer in float64."""
import csv

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import iebn_zoo
from iebn_zoo.commands.gates import main
from iebn_zoo.commands.train import main as train
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.plots.gates import draw_image_gates
from iebn_zoo.prediction.gates import COLUMNS, as_csv, depend_on_images, gates_in_words, gates_of
from iebn_zoo.prediction.predict import Predictor
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import flags


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in ((32, 32), (20, 45), (70, 33))]


def trained_model():
    torch.manual_seed(0)
    model = timm.create_model('iebn_resnet20_cifar', num_classes=4, layers=(1, 1, 1))
    for m in model.modules():
        if isinstance(m, IEBatchNorm2d):
            torch.nn.init.normal_(m.get_parameter('gate_weight'))
            torch.nn.init.normal_(m.get_parameter('gate_bias'))
    return model


def test_gates_are_those_of_the_formula(images):
    model = trained_model()
    predictor = Predictor(model)
    gates, probabilities = gates_of(predictor, [predictor.open(image) for image in images])
    layers = {name: m for name, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}
    assert list(gates) == list(layers)  # the order of running is that of the definition here
    seen = {}
    hooks = [m.register_forward_pre_hook(lambda m, args, name=name: seen.__setitem__(name, args[0].double().clone()))
             for name, m in layers.items()]
    assert torch.equal(predictor.probabilities([predictor.open(image) for image in images]), probabilities)
    assert all(len(m._forward_pre_hooks) == 1 for m in layers.values())
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        expected = torch.sigmoid(layer.gate_weight.double() * seen[name].mean((2, 3)) + layer.gate_bias.double())
        torch.testing.assert_close(gates[name].double(), expected, rtol=1e-5, atol=1e-6)

    rows = list(csv.DictReader(as_csv(gates, ['a', 'b, c', 'd']).splitlines()))
    assert tuple(rows[0]) == COLUMNS and [r['image'] for r in rows[::len(gates)]] == ['a', 'b, c', 'd']
    for row in rows:
        values = gates[row['name']][['a', 'b, c', 'd'].index(row['image'])].double().numpy()
        assert row['layer'] == str(list(gates).index(row['name'])) and row['channels'] == str(len(values))
        found = [float(row[key]) for key in ('mean', 'spread', 'least', 'largest')]
        assert found == pytest.approx([values.mean(), values.std(), values.min(), values.max()], rel=1e-4)
        every = gates[row['name']].double().numpy()
        assert float(row['image_spread']) == pytest.approx(every.std(0).mean(), rel=1e-4)


def test_one_image_has_no_spread_and_bn_has_no_gates(images):
    gates, _ = gates_of(Predictor(trained_model()), images[:1])
    rows = list(csv.DictReader(as_csv(gates, ['a']).splitlines()))
    assert [row['image_spread'] for row in rows] == [''] * len(gates) and float(rows[0]['spread']) > 0
    with pytest.raises(UsageError, match='no IEBN layer'):
        gates_of(Predictor(timm.create_model('bn_resnet20_cifar')), images)


def test_image_gates_are_the_same_in_batches(images, tmp_path):
    model = trained_model().train()
    whole, _ = gates_of(Predictor(model), [Predictor(model).open(image) for image in images])
    for batch_size in (1, 2, 3):
        found = iebn_zoo.image_gates(model, images, batch_size=batch_size)
        assert list(found) == list(whole) and model.training
        for name, values in found.items():
            torch.testing.assert_close(values, whole[name])
    images[0].save(tmp_path / 'a.png')
    one = iebn_zoo.image_gates(model, tmp_path / 'a.png', device='cpu')
    torch.testing.assert_close(one['bn1'], whole['bn1'][:1])
    assert depend_on_images(model) and not depend_on_images(timm.create_model('iebn_resnet20_cifar'))
    for more, said in (((model, []), 'no images given'), ((model, images, 0), 'batch_size is 0'),
                       ((timm.create_model('bn_resnet20_cifar'), images), 'no IEBN layer')):
        with pytest.raises(UsageError, match=said):
            iebn_zoo.image_gates(*more)


def test_words_say_what_the_images_can_tell():
    gates = {'bn1': torch.tensor([[0.2, 0.3, 0.1], [0.2, 0.3, 0.1]]),
             'bn2': torch.tensor([[0.5, 0.6, 0.7], [0.5, 0.6, 0.1]])}
    assert gates_in_words(gates, True) == (
        'the gates differ most between images in bn2 (standard deviation 0.1, mean over its channels)')
    alone = gates_in_words({name: values[:1] for name, values in gates.items()}, True)
    assert alone == 'the gate of the median channel is lowest in the layer bn1 (0.20) and highest in bn2 (0.60)'
    assert gates_in_words(gates, False) == 'each gate_weight is 0, so the gates are the same for every image'


def test_a_class_may_have_any_name_in_the_picture(images, tmp_path):
    gates = {'bn1': np.full((2, 4), 0.3)}
    for count in (1, 2):
        draw_image_gates(tmp_path / f'{count}.png', images[:count], ['$x_{$ 3 %', 'a$'][:count],
                         {k: v[:count] for k, v in gates.items()}, 'the price in $ of a_{b}$')
    with Image.open(tmp_path / '1.png') as one, Image.open(tmp_path / '2.png') as two:
        assert one.height < two.height


def test_a_layer_that_runs_twice_is_a_message(images):
    model = trained_model()
    model.get_submodule('layer1.0').add_module('bn1', model.get_submodule('bn1'))
    with pytest.raises(IEBNZooError, match="'bn1' ran 2 times"):
        gates_of(Predictor(model), images)


def test_the_command(image_folder, tmp_path, capsys):
    train(flags(image_folder, tmp_path / 'run', '--epochs', '1', '--model-kwargs', 'layers=(1,1,1)'))
    capsys.readouterr()
    out = tmp_path / 'a' / 'gates'
    assert main([str(tmp_path / 'run'), str(image_folder / 'test'), '--output', str(out), '--device', 'cpu']) == 0
    assert '7 layers, 21 images; the gates differ most between images in ' in capsys.readouterr().out
    rows = list(csv.DictReader((out / 'gates.csv').read_text().splitlines()))
    assert len(rows) == 7 * 21
    with Image.open(out / 'gates.png') as picture:
        assert picture.width > 600 and picture.height > 1500
    one = next((image_folder / 'test' / 'ant').iterdir())
    assert main([str(tmp_path / 'run'), str(one), '--output', str(out), '--device', 'cpu']) == 0
    assert '7 layers, 1 image; the gate of the median channel is lowest in the layer ' in capsys.readouterr().out
    assert {row['image_spread'] for row in csv.DictReader((out / 'gates.csv').read_text().splitlines())} == {''}
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match='file is no directory'):
        main([str(tmp_path / 'run'), str(image_folder / 'test'), '--output', str(tmp_path / 'file' / 'x')])
