"""Tools that replace, freeze or average the batch statistics, on whole networks."""
import copy

import pytest
import timm.layers
import timm.utils
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from iebn_zoo import IEBatchNorm2d, unfreeze_batch_norm_2d
from tests.support.contracts.networks import NETWORKS, difference, images, network

networks = pytest.mark.parametrize('name', NETWORKS)


def freeze_in_place(model):
    timm.utils.freeze(model)
    return model


def norms_in_eval_mode(model):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def convert_to_sync(model):
    return timm.layers.convert_sync_batchnorm(model).eval()  # needs a GPU for batch statistics


def gates(model):
    return {k: v for k, v in model.named_parameters() if 'gate_' in k}


@networks
@pytest.mark.parametrize('tool', [
    timm.layers.freeze_batch_norm_2d, freeze_in_place, norms_in_eval_mode, convert_to_sync,
    lambda m: nn.SyncBatchNorm.convert_sync_batchnorm(m).eval(), lambda m: timm.layers.convert_splitbn_model(m).eval()],
    ids=['freeze_batch_norm_2d', 'freeze', 'eval', 'sync_timm', 'sync_torch', 'split'])
def test_running_statistics_and_gates_stay(name, tool):
    model, x = network(name), images(4, 1)
    with torch.no_grad():
        expected = model(x)
        before = {k: v.clone() for k, v in gates(model).items()}
        statistics = {k: v.clone() for k, v in model.state_dict().items() if 'running' in k}
        swapped = tool(model)
        if tool in (timm.layers.freeze_batch_norm_2d, freeze_in_place):
            swapped.train()
        assert difference(swapped(x), expected) < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in gates(swapped).items()) and len(before) == len(gates(swapped)) > 10
    assert all(torch.equal(v, statistics[k]) for k, v in swapped.state_dict().items() if k in statistics)
    assert sum(isinstance(m, IEBatchNorm2d) for m in swapped.modules()) == len(before) // 2


@networks
def test_frozen_and_unfrozen(name):
    model, x = network(name), images(8, 1)
    thawed = unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(copy.deepcopy(model)))
    assert list(thawed.state_dict()) == list(model.state_dict())
    for training in (False, True, False):  # the last one with statistics of the one before
        y = model.train(training)(x)
        assert difference(thawed.train(training)(x), y) < 1e-5


@networks
def test_split_batch_norm_trains_each_part_by_itself(name):
    model, x = network(name), images(8, 1)
    split = timm.layers.convert_splitbn_model(copy.deepcopy(model), num_splits=2).train()
    with torch.no_grad():
        expected = torch.cat([copy.deepcopy(model).train()(half) for half in x.chunk(2)])
        assert difference(split(x), expected) < 1e-5


@networks
def test_update_bn(name):
    """Afterwards the statistics are those of the data, for the gated norms as for the shortcuts' plain ones."""
    model = network(name)
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    batches = [images(8, seed) for seed in (1, 2)]
    update_bn(batches, fresh)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = None, torch.tensor(0)
    model.train()
    for batch in batches:
        model(batch)
    assert len(norms) > 7
    for key, value in model.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[key], value, msg=key)
