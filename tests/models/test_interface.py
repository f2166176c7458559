"""timm's model interface: head, groups, checkpointing, script, gradients."""
import copy

import pytest
import timm
import timm.optim
import torch
from timm.models import group_parameters
from torch import nn

from tests.support.models.cases import ALL, IMAGENET, ids
from tests.support.versions import OLD_TIMM

cases = pytest.mark.parametrize('case', ALL, ids=ids)


@cases
def test_features_then_head(case):
    model, x = case.create().eval(), case.input()
    features = model.forward_features(x)
    side = case.size // case.reductions[-1]
    assert features.shape == (2, model.num_features, side, side)
    torch.testing.assert_close(model.forward_head(features), model(x))
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.fc(pre_logits), model(x))


@cases
def test_classifier(case):
    model, x = case.create().eval(), case.input()
    pre_logits = model.forward_head(model.forward_features(x), pre_logits=True)
    assert model.get_classifier() is model.fc and isinstance(model.fc, nn.Linear)
    assert model.get_classifier(name_only=True) == 'fc'
    model.reset_classifier(9)
    assert model(x).shape == (2, 9) and model.num_classes == model.fc.out_features == 9
    model.reset_classifier(3, 'catavgmax')
    assert model(x).shape == (2, 3) and model.fc.in_features == 2 * model.num_features
    assert OLD_TIMM or model.head_hidden_size == 2 * model.num_features
    model.reset_classifier(0, 'avg')
    torch.testing.assert_close(model(x), pre_logits)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(0, '')
    torch.testing.assert_close(model(x), model.forward_features(x))


@cases
@pytest.mark.parametrize('coarse', [False, True], ids=['fine', 'coarse'])
def test_groups(case, coarse):
    model = case.create(device='meta')
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    layer = {name: i for i, group in groups.items() for name in group}
    stages = [stage for name, stage in model.named_children() if name.startswith('layer')]
    blocks = len(stages) if coarse else sum(len(s) for s in stages)
    assert len(groups) == blocks + 2 and layer['fc.weight'] == layer['fc.bias'] == blocks + 1
    stem = [n for n in names if not n.startswith(('layer', 'fc', 'norm'))]
    assert stem and {layer[n] for n in stem} == {0}
    order = [layer[n] for n in names if n.startswith('layer')]
    expected = 1
    for s, stage in enumerate(stages):
        for b in range(len(stage)):
            assert {layer[n] for n in names if n.startswith(f'layer{s + 1}.{b}.')} == {expected}
            expected += not coarse
        expected += coarse
    assert max(order) == blocks
    # a last norm shares the group of the last block
    assert {layer[n] for n in names if n.startswith('norm.')} <= {blocks}


@cases
def test_layer_decay(case):
    model = case.create(device='meta')
    optimizer = timm.optim.create_optimizer_v2(model, opt='adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    assigned = [id(p) for g in optimizer.param_groups for p in g['params']]
    assert sorted(assigned) == sorted(id(p) for p in model.parameters())
    for group in optimizer.param_groups:
        assert all((p.dim() > 1) == (group['weight_decay'] > 0) for p in group['params'])
    scale = {id(p): g['lr_scale'] for g in optimizer.param_groups for p in g['params']}
    assert scale[id(model.fc.weight)] == 1
    assert len({scale[id(p)] for p in model.layer1[0].parameters()}) == 1
    stem, first, second = next(model.parameters()), model.layer1[0].conv1.weight, model.layer2[0].conv1.weight
    assert scale[id(stem)] < scale[id(first)] < scale[id(second)] < 1


@cases
def test_grad_checkpointing(case):
    model, x = case.create().train(), case.input()
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing(True)
    assert twin.grad_checkpointing
    outputs = [m(x) for m in (model, twin)]
    torch.testing.assert_close(*outputs)
    for y in outputs:
        y.square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)
    for on in (True, False):
        twin.set_grad_checkpointing(on)
        maps = twin.eval().forward_intermediates(x, intermediates_only=True)
        assert len(maps) == len(case.reductions)


@cases
def test_script(case):
    model, x = case.create().eval(), case.input()
    scripted = torch.jit.script(model)
    with torch.no_grad():
        for batch in (x, x[:1]):
            torch.testing.assert_close(scripted(batch), model(batch), atol=1e-4, rtol=1e-4)


@cases
def test_every_parameter_learns(case):
    model = case.create().train()
    model(case.input()).logsumexp(1).sum().backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert wrong == []
    gates = [n for n, p in model.named_parameters() if 'gate_' in n and not p.grad.any()]
    assert gates == []


@pytest.mark.parametrize('case', IMAGENET, ids=ids)
def test_imagenet_model_at_full_size(case):
    model = timm.create_model(case.name, num_classes=5).train()
    logits = model(case.input())
    assert logits.shape == (2, 5)
    logits.logsumexp(1).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@cases
def test_state_dict_round_trip(case):
    model, x = case.create().eval(), case.input()
    other = timm.create_model(case.name, **{'num_classes': 5, **case.kwargs}).eval()
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), model(x), atol=0, rtol=0)
