import pytest
import torch

from iebn_zoo.training.engine.determinism import deterministic


@pytest.mark.parametrize('before', [False, True])
def test_the_fastest_algorithms_are_sought_unless_the_bits_must_be_the_same(before, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', before)
    for enabled in (False, True):
        with pytest.raises(RuntimeError, match='stop'), deterministic(enabled):
            assert torch.backends.cudnn.benchmark is not enabled
            assert torch.are_deterministic_algorithms_enabled() is enabled
            raise RuntimeError('stop')
        assert torch.backends.cudnn.benchmark is before and not torch.are_deterministic_algorithms_enabled()
