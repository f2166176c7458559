import copy

import pytest
import timm
import torch

import iebn_zoo  # noqa: F401
from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks.freeze import freeze_backbone, freeze_statistics, thaw_statistics
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import flags

STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


def make(name='iebn_resnet20_cifar'):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, layers=(1, 1, 1), drop_rate=0.5)


def step(model):
    model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))).square().mean().backward()


def statistics(state):
    return {k: v.clone() for k, v in state.items() if k.endswith(STATISTICS)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('name', ['bn_resnet20_cifar', 'iebn_resnet20_cifar', 'se_preresnet164_cifar'])
def test_training_leaves_the_statistics_and_trains_the_rest(name):
    model = make(name)
    before, keys = statistics(model.state_dict()), list(model.state_dict())
    names = freeze_statistics(model)
    assert len(names) == len(before) // 3
    model.train()
    assert model.training and model.layer1[0].conv1.training
    step(model)
    assert same(statistics(model.state_dict()), before) and list(model.state_dict()) == keys
    assert all(p.grad is not None for p in model.parameters())


def test_a_frozen_network_normalizes_by_its_running_statistics():
    model = make().eval()
    model.drop_rate = 0.
    x = torch.randn(4, 3, 8, 8)
    expected = model(x)
    freeze_statistics(model)
    assert torch.allclose(model.train()(x), expected, atol=1e-6)


def test_a_copy_is_frozen_by_itself_and_thawing_undoes_it():
    model = make()
    freeze_statistics(model)
    other = copy.deepcopy(model)
    thaw_statistics(model)
    model.train()
    other.train()
    before = statistics(other.state_dict())
    step(model)
    step(other)
    assert not same(statistics(model.state_dict()), before) and same(statistics(other.state_dict()), before)


def test_the_flag_freezes_a_run_from_trained_weights_alone(image_folder, tmp_path):
    with pytest.raises(UsageError, match='--initial-checkpoint'):
        train(flags(image_folder, tmp_path / 'no', '--freeze-stats'))
    train(flags(image_folder, tmp_path / 'first', '--epochs', '1'))
    first = tmp_path / 'first' / LAST
    train(flags(image_folder, tmp_path / 'run', '--epochs', '1', '--freeze-stats', '--model-ema', '--lr', '0.001',
                '--initial-checkpoint', str(first)))
    a, b = (load_checkpoint(p)['state_dict'] for p in (first, tmp_path / 'run' / LAST))
    assert same(statistics(a), statistics(b)) and not torch.equal(a['conv1.weight'], b['conv1.weight'])


def test_a_linear_probe_trains_the_classifier_alone(image_folder, tmp_path):
    model = make()
    torch.save(model.state_dict(), tmp_path / 'start.pth')
    run = tmp_path / 'run'
    train(flags(image_folder, run, '--model-kwargs', 'layers=(1,1,1)', '--initial-checkpoint',
                str(tmp_path / 'start.pth'), '--freeze-backbone', '--model-ema', '--clip-grad', '1'))
    now = load_checkpoint(run / LAST)['state_dict']
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, now[k])}
    assert changed == {'fc.weight', 'fc.bias'}


@pytest.mark.parametrize('more, said', [
    ((), '--freeze-backbone with new weights'),
    (('--model-kwargs', 'num_classes=0'), '--model-kwargs sets num_classes'),
])
def test_what_a_linear_probe_cannot_be(image_folder, tmp_path, more, said):
    with pytest.raises(UsageError, match=said):
        train(flags(image_folder, tmp_path / 'run', '--freeze-backbone', *more))
    with pytest.raises(UsageError, match='has no classifier with weights'):
        freeze_backbone(timm.create_model('iebn_resnet20_cifar', num_classes=0))
