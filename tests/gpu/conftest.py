import pytest
import torch


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """Convolutions in float32 proper, by algorithms that give the same bits each time."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
