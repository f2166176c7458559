"""What fastai, Lightning and transformers do with the gates and the statistics, and the line that changes it."""
import warnings

import pytest
import timm
import torch
from torch import nn

import iebn_zoo

GATES = ('gate_weight', 'gate_bias')


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'):
        monkeypatch.setenv(name, '1')
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def make():
    torch.manual_seed(0)
    return timm.create_model('iebn_resnet20_cifar', num_classes=3, layers=(1, 1, 1))


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def statistics(model):
    return {name: value.clone() for name, value in model.state_dict().items() if 'running' in name}


def moved(before, model):
    return {name for name, value in statistics(model).items() if not torch.equal(value, before[name])}


def batches(count=3):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(count)]


def test_norm_parameters_are_those_of_all_norms():
    model = make()
    found = iebn_zoo.norm_parameters(model)
    assert {'bn1.weight', 'bn1.bias', 'bn1.gate_weight', 'bn1.gate_bias', 'layer2.0.downsample.1.weight'} <= set(found)
    assert not any(name.startswith('fc') or 'conv' in name or '.bn.' in name for name in found)
    assert all(found[name] is parameter for name, parameter in model.named_parameters() if name in found)
    assert iebn_zoo.norm_parameters(model.bn1).keys() == {'weight', 'bias', *GATES}


# Lightning

def test_lightning_freezes_the_gates_and_leaves_the_statistics_in_training():
    finetuning = pytest.importorskip('pytorch_lightning.callbacks.finetuning').BaseFinetuning
    model = make().train()
    finetuning.freeze(model, train_bn=True)
    plain = {n for n in iebn_zoo.norm_parameters(model) if 'downsample' in n}
    assert trainable(model) == plain and plain
    before = statistics(model)
    model(batches()[0][0])
    assert moved(before, model) == set(before)
    for parameter in iebn_zoo.norm_parameters(model).values():  # the line: norms are trained as those of BN are
        parameter.requires_grad_(True)
    assert trainable(model) == set(iebn_zoo.norm_parameters(model))
    model.requires_grad_(True)
    finetuning.freeze(model, train_bn=False)
    before = statistics(model)
    model(batches()[0][0])
    assert trainable(model) == set() and moved(before, model) == set()
    finetuning.make_trainable(model)
    model(batches()[0][0])
    assert trainable(model) == {name for name, _ in model.named_parameters()} and moved(before, model) == set(before)


def test_lightning_unfreezes_the_gates_but_those_that_equal_one_in_the_optimizer():
    finetuning = pytest.importorskip('pytorch_lightning.callbacks.finetuning').BaseFinetuning
    model = make()
    finetuning.freeze(model.layer2, train_bn=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    finetuning.unfreeze_and_add_param_group(model.layer2, optimizer, train_bn=False)  # the gates are no BN to it
    gates = {id(p) for name, p in model.layer2.named_parameters() if name.endswith(GATES)}
    assert gates <= {id(p) for p in optimizer.param_groups[1]['params']}
    # Lightning compares values, and those of new gates are equal: layer1 has as many channels as bn1
    model = make()
    optimizer = torch.optim.SGD(model.bn1.parameters(), lr=0.1)
    finetuning.unfreeze_and_add_param_group(model.layer1, optimizer)
    added = {id(p) for p in optimizer.param_groups[1]['params']}
    left = [p for p in model.layer1.parameters() if id(p) not in added]
    assert {id(p) for name, p in model.layer1.named_parameters() if name.endswith(GATES)} <= set(map(id, left))
    optimizer.add_param_group(dict(params=left, lr=0.01))  # the line


def test_lightning_synchronizes_the_statistics_and_keeps_the_gates():
    plugin = pytest.importorskip('pytorch_lightning.plugins.layer_sync').TorchSyncBatchNorm()
    model, state = make(), make().state_dict()
    model = plugin.apply(model)
    assert isinstance(model.bn1, iebn_zoo.IEBatchNorm2d) and isinstance(model.bn1.bn, nn.SyncBatchNorm)
    assert model.state_dict().keys() == state.keys()


def test_lightning_averages_gates_and_measures_the_statistics_again(tmp_path):
    lightning = pytest.importorskip('pytorch_lightning')

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    task, data = Task(), batches()
    average = lightning.callbacks.StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator='cpu', logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[average], default_root_dir=tmp_path)
    trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=None))
    assert task.net.bn1.gate_weight.abs().max() > 0
    children = [module for module in task.net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(child.num_batches_tracked) for child in children} == {len(data)}  # from anew, over one epoch
    assert {child.momentum for child in children} == {0.1}


# fastai

def learner(model):
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(
        torch.cat([x for x, _ in batches()]), torch.cat([y for _, y in batches()])), batch_size=4)
    net = nn.Sequential(nn.Sequential(*list(model.children())[:-1]), model.fc)
    return Learner(DataLoaders(loader, loader), net, loss_func=nn.CrossEntropyLoss(), train_bn=True,
                   splitter=lambda m: [list(m[0].parameters()), list(m[1].parameters())])


def test_fastai_freezes_and_decays_gates_unless_the_layer_is_among_its_norms(monkeypatch):
    core = pytest.importorskip('fastai.torch_core')
    learn = learner(make())
    learn.create_opt()
    learn.freeze()
    body, norms = learn.model[0], iebn_zoo.norm_parameters(learn.model[0])
    assert not any(norms[name].requires_grad for name in norms if name.endswith(GATES))
    decayed = [state.get('do_wd', True) for _, _, state, _ in learn.opt.all_params(with_grad=False)]
    assert sum(not d for d in decayed) < len(norms)
    monkeypatch.setattr(core, 'norm_types', (*core.norm_types, iebn_zoo.IEBatchNorm2d))  # the line
    learn = learner(make())
    learn.create_opt()
    learn.freeze()
    body, norms = learn.model[0], iebn_zoo.norm_parameters(learn.model[0])
    assert trainable(body) == set(norms)
    states = {id(p): state for p, _, state, _ in learn.opt.all_params()}
    assert all(states[id(p)]['do_wd'] is False for p in norms.values())


def test_fastais_bn_freeze_stops_at_the_child_and_freeze_statistics_does_what_it_means():
    training = pytest.importorskip('fastai.callback.training')
    from iebn_zoo.training.callbacks.freeze import freeze_statistics
    model = make().requires_grad_(False)
    with pytest.raises(StopIteration):
        training.set_bn_eval(model)
    whole = nn.Sequential(make(), nn.BatchNorm1d(3))
    freeze_statistics(whole[0])  # the line, for the body of a network
    before = statistics(whole)
    whole.train()(batches()[0][0])
    assert moved(before, whole) == {'1.running_mean', '1.running_var'}


# transformers

def test_transformers_decays_gate_weights_unless_they_are_left_out_and_saves_them(tmp_path):
    transformers = pytest.importorskip('transformers')
    pytest.importorskip('accelerate')

    class Trainer(transformers.Trainer):
        def get_decay_parameter_names(self, model):
            norms = iebn_zoo.norm_parameters(model)  # the line
            return [name for name in super().get_decay_parameter_names(model) if name not in norms]

    config = transformers.TimmWrapperConfig(
        architecture='iebn_resnet20_cifar', num_labels=3, model_args=dict(layers=[1, 1, 1]))
    model = transformers.TimmWrapperForImageClassification(config)
    images = [dict(pixel_values=x[i], labels=y[i]) for x, y in batches(1) for i in range(4)]
    args = transformers.TrainingArguments(
        str(tmp_path / 'out'), max_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to=[], save_steps=1,
        learning_rate=0.1, weight_decay=0.1, disable_tqdm=True)
    plain = transformers.Trainer(model, args).get_decay_parameter_names(model)
    assert 'timm_model.bn1.gate_weight' in plain and 'timm_model.bn1.weight' in plain
    assert 'timm_model.bn1.gate_bias' not in plain
    trainer = Trainer(model, args, train_dataset=images)
    assert set(trainer.get_decay_parameter_names(model)) == set(plain) - set(iebn_zoo.norm_parameters(model))
    before = statistics(model)
    trainer.train()
    assert moved(before, model) == set(before) and model.timm_model.bn1.gate_weight.abs().max() > 0
    trainer.save_model(str(tmp_path / 'saved'))
    again = transformers.TimmWrapperForImageClassification.from_pretrained(str(tmp_path / 'saved')).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(batches()[0][0]).logits, model.eval()(batches()[0][0]).logits)
