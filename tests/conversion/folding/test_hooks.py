"""Hooks on what stands in an activation's place go on, and those that would be lost are refused."""
import pytest
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, convert_iebn_to_bn, fold_gates
from iebn_zoo.util.errors import UsageError
from tests.support.conversion.folded_networks import images, zoo_model

REGISTER = {
    'forward': lambda module, hook: module.register_forward_hook(hook),
    'with_kwargs': lambda module, hook: module.register_forward_hook(hook, with_kwargs=True),
    'always': lambda module, hook: module.register_forward_hook(hook, always_call=True),
    'pre': lambda module, hook: module.register_forward_pre_hook(hook),
    'pre_with_kwargs': lambda module, hook: module.register_forward_pre_hook(hook, with_kwargs=True),
    'backward': lambda module, hook: module.register_full_backward_hook(hook),
    'backward_pre': lambda module, hook: module.register_full_backward_pre_hook(hook),
}
X = images(2, 32)


def constant(model):
    for layer in model.modules():
        if isinstance(layer, IEBatchNorm2d):
            nn.init.zeros_(layer.gate_weight)
    return model


def run(model):
    model(X.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize('kind', REGISTER)
@pytest.mark.parametrize('find', [lambda m: m.act1, lambda m: m.layer1[0].act1, lambda m: m.layer1[0].act2],
                         ids=['stem', 'block', 'end_of_block'])
def test_a_hook_of_the_activation_goes_on(kind, find):
    model, seen = constant(zoo_model()), []
    handle = REGISTER[kind](find(model), lambda *args, **kwargs: seen.append(args[0]))
    run(model)
    assert len(seen) == 1
    model, _ = convert_iebn_to_bn(model)
    run(model)
    assert len(seen) == 2 and seen[1] is find(model) and type(seen[1]) is nn.ReLU
    handle.remove()
    run(model)
    assert len(seen) == 2


def test_a_hook_of_the_activation_sees_what_it_saw():
    model, seen = constant(zoo_model()), []
    model.act1.register_forward_hook(lambda module, args, y: seen.append(y.detach().clone()))
    model(X)
    folded, _ = fold_gates(model, X)
    seen = seen[:1]
    convert_iebn_to_bn(model)[0](X)
    torch.testing.assert_close(seen[0], folded.act1(folded.bn1(folded.conv1(X))).detach(), rtol=1e-5, atol=1e-6)


def test_two_hooks_for_one_place():
    model = constant(zoo_model())
    for module in (model.act1, model.bn1.act):
        module.register_forward_hook(lambda *args: None)
    before = list(model.modules())
    with pytest.raises(UsageError, match='act1 and the activation that returns to its place both have hooks'):
        convert_iebn_to_bn(model)
    assert list(model.modules()) == before
