"""State dicts that a wrapper has saved, or a network under timm's freeze: every reader opens the network in them."""
import pytest
import timm.utils
import torch

from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.weights.files import as_state_dict, checkpoint, iebn_network, same_logits
from tests.weights.test_readers import readers


@readers
def test_one_tensor_with_the_prefix_of_a_wrapper_and_without(read, tmp_path):
    state = iebn_network().state_dict()
    with pytest.raises(IEBNZooError, match=r"'fc\.bias' twice"):
        read(as_state_dict(checkpoint(state_dict={**state, 'module.fc.bias': state['fc.bias']}), tmp_path))


@readers
def test_a_network_under_timms_freeze(read, tmp_path):
    frozen = iebn_network()
    timm.utils.freeze(frozen, ['layer1'])
    state = frozen.state_dict()
    width = len(state['layer1.0.bn1.bn.running_mean'])
    earlier = {**state, 'layer1.0.bn1.bn.weight': torch.ones(width), 'layer1.0.bn1.bn.bias': torch.zeros(width)}
    for content in (state, earlier):
        assert same_logits(read(as_state_dict(checkpoint(state_dict=content), tmp_path)), iebn_network())


@readers
def test_the_mean_of_several_networks(read, tmp_path):
    mean = torch.optim.swa_utils.AveragedModel(iebn_network())
    assert same_logits(read(as_state_dict(checkpoint(state_dict=mean.state_dict()), tmp_path)), iebn_network())
    state = {**iebn_network().state_dict(), 'n_averaged': torch.tensor(1)}  # without the wrapper's prefix
    with pytest.raises((IEBNZooError, UsageError), match='n_averaged'):
        read(as_state_dict(checkpoint(state_dict=state), tmp_path))
