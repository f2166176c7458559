"""Which GPU a process takes; there is none here, so torch is told that there are some."""
import pytest
import torch

from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import UsageError

NAMES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')


@pytest.fixture
def gpus(monkeypatch):
    taken = []

    def there_are(count, **environment):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
        monkeypatch.setattr(torch.cuda, 'set_device', taken.append)
        return taken
    return there_are


@pytest.mark.parametrize('environment', [
    dict(WORLD_SIZE='8', RANK='6', LOCAL_RANK='2'), dict(SLURM_NTASKS='8', SLURM_PROCID='6', SLURM_LOCALID='2')])
def test_each_process_of_a_machine_takes_its_own(gpus, environment):
    taken = gpus(4, **environment)
    for name in ('auto', 'cuda', 'cuda:1'):
        assert resolve_device(name) == torch.device('cuda', 2)
    assert taken == [torch.device('cuda', 2)] * 3
    assert resolve_device('cpu') == torch.device('cpu')
    gpus(2, **environment)
    with pytest.raises(UsageError, match='process 2 of this machine has no GPU of its own: 2 found') as e:
        resolve_device('auto')
    assert len(str(e.value).splitlines()) <= 3


def test_one_process_takes_the_one_it_is_given(gpus):
    gpus(2, WORLD_SIZE='1', RANK='0', LOCAL_RANK='0')
    assert resolve_device('cuda:1') == torch.device('cuda', 1)
    assert resolve_device('auto') == torch.device('cuda', 0)
    with pytest.raises(UsageError, match=r'--device cuda:2 is not there \(2 GPUs found\)'):
        resolve_device('cuda:2')
    gpus(0, WORLD_SIZE='2', RANK='1', LOCAL_RANK='1')
    assert resolve_device('auto') == torch.device('cpu')
    with pytest.raises(UsageError, match='--device cuda is not there'):
        resolve_device('cuda')
