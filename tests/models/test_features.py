"""features_only, forward_intermediates and prune_intermediate_layers agree with each other and with the network."""
import copy

import pytest
import timm
import torch
from torch import nn

from tests.models.test_registry import IMAGENET
from tests.support.models.cases import ALL, IEBN_CIFAR, ids
from tests.support.versions import OLD_TIMM

# one network a stem, block and pooling type; too large to run with real numbers here
RUN_ON_META = ('iebn_resnet50s', 'iebn_resnet101c', 'iebn_resnet152d', 'iebn_resnetblur50d', 'iebn_resnetaa50d',
               'iebn_resnext101_32x32d', 'iebn_wide_resnet101_2')

cases = pytest.mark.parametrize('case', ALL, ids=ids)


@cases
def test_features_only(case):
    x = case.input()
    model = case.create().eval()
    features = case.create(features_only=True).eval()
    missing, unexpected = features.load_state_dict(model.state_dict(), strict=False)
    assert missing == [] and all(k.startswith(('fc.', 'norm.')) for k in unexpected)
    maps = features(x)
    assert features.feature_info.reduction() == case.reductions
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    assert [case.size // m.shape[2] for m in maps] == case.reductions
    assert features.feature_info.module_name() == ['act1', *(f'layer{i}' for i in range(1, len(maps)))]
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(x)
        for a, b in zip(maps, intermediates, strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(final, model.forward_features(x))


@cases
@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (-1,)], ids=str)
def test_out_indices(case, out_indices):
    x = case.input()
    model = case.create().eval()
    every = model.forward_intermediates(x, intermediates_only=True)
    features = case.create(features_only=True, out_indices=out_indices).eval()
    features.load_state_dict(model.state_dict(), strict=False)
    for index, taken in zip(out_indices, features(x), strict=True):
        torch.testing.assert_close(taken, every[index])


@cases
@pytest.mark.parametrize('indices', [1, 2, [0], [1, 2], [0, -1]], ids=str)
def test_forward_intermediates(case, indices):
    model, x = case.create().eval(), case.input()
    every = model.forward_intermediates(x, intermediates_only=True)
    wanted = list(range(len(every)))[-indices:] if isinstance(indices, int) else indices
    for stop_early in (False, True):
        final, taken = model.forward_intermediates(x, indices=indices, stop_early=stop_early)
        only = model.forward_intermediates(x, indices=indices, stop_early=stop_early, intermediates_only=True)
        for i, a, b in zip(wanted, taken, only, strict=True):
            torch.testing.assert_close(a, every[i])
            torch.testing.assert_close(b, every[i])
    if wanted[-1] in (-1, len(every) - 1):
        torch.testing.assert_close(final, model.forward_features(x))


@cases
@pytest.mark.parametrize('indices', [[0], [1], [1, 2], [0, -1], 1], ids=str)
@pytest.mark.parametrize('prune_norm', [False, True])
def test_prune(case, indices, prune_norm):
    model, x = case.create().eval(), case.input()
    expected = model.forward_intermediates(x, indices=indices, intermediates_only=True)
    pruned = copy.deepcopy(model)
    kept = pruned.prune_intermediate_layers(indices, prune_norm=prune_norm)
    assert len(kept) == len(expected) and isinstance(pruned.fc, nn.Identity)
    actual = pruned.forward_intermediates(x, indices=kept, intermediates_only=True, stop_early=True)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)
    last = max(kept)
    width = model.feature_info[last]['num_chs']
    assert OLD_TIMM or pruned.num_features == width
    assert not any(k.startswith(f'layer{i}.') for k in pruned.state_dict() for i in range(last + 1, 5))
    assert pruned.forward_features(x).shape[1] == width


@pytest.mark.parametrize('case', IEBN_CIFAR, ids=ids)
def test_normalized_last_intermediate(case):
    model, x = case.create().train(), case.input()
    twin = copy.deepcopy(model)
    expected = twin.forward_features(x)
    final, taken = model.forward_intermediates(x, indices=[-1], norm=True)
    torch.testing.assert_close(final, expected)
    torch.testing.assert_close(taken[0], expected)
    for key, value in twin.state_dict().items():  # each norm saw the batch once
        torch.testing.assert_close(model.state_dict()[key], value, msg=key)


@pytest.mark.parametrize('indices', [[3, 1], [-1, 0], [3, 3], [2, 0]], ids=str)
def test_the_normalized_one_is_the_last_whatever_the_order_of_the_indices(indices):
    case = next(case for case in IEBN_CIFAR if case.name == 'iebn_wrn28_10_cifar')  # it has a norm behind its stages
    model, x = case.create().eval(), case.input()
    plain = model.forward_intermediates(x, indices=indices, intermediates_only=True)
    taken = model.forward_intermediates(x, indices=indices, norm=True, intermediates_only=True)
    if 3 in indices or -1 in indices:
        plain[-1] = model.forward_features(x)
    assert len(taken) == len(set(indices))
    for actual, expected in zip(taken, plain, strict=True):
        torch.testing.assert_close(actual, expected)


def test_unknown_format():
    with pytest.raises(ValueError, match="output_fmt.*'NLC'"):
        IEBN_CIFAR[0].create().forward_intermediates(IEBN_CIFAR[0].input(), output_fmt='NLC')


@pytest.mark.parametrize('name', IMAGENET)
def test_every_imagenet_model_has_the_features_of_its_base(name):
    ours = timm.create_model(name, features_only=True, device='meta')
    theirs = timm.create_model(name.removeprefix('iebn_'), features_only=True, device='meta')
    assert ours.feature_info.get_dicts() == theirs.feature_info.get_dicts()
    if name in RUN_ON_META:
        maps, info = ours.eval()(torch.empty(2, 3, 64, 64, device='meta')), ours.feature_info
        assert [m.shape[1] for m in maps] == info.channels() and [64 // m.shape[2] for m in maps] == info.reduction()
