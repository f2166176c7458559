"""Which GPU a process takes; there is none here, so torch is told that there are some. What the C library keeps."""
import os
import subprocess
import sys

import pytest
import torch

from iebn_zoo.util.device import keep_freed_memory, resolve_device
from iebn_zoo.util.errors import UsageError
from tests.support.allocator import default_allocator, needs_glibc

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


PAGE_FAULTS = """
import os, resource, torch
from iebn_zoo.util.device import give_back_freed_memory, keep_freed_memory, resolve_device
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(size) for size in (4_000_000, 6_000_000, 7_500_000)]  # 16, 24 and 30 MB
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
{call}
print(min(faults() for _ in range(16)))  # the first rounds of a heap that grows fault as well
"""


def page_faults(call, **variables):
    done = subprocess.run([sys.executable, '-c', PAGE_FAULTS.format(call=call)], check=True, capture_output=True,
                          env={**default_allocator(), **variables}, text=True)
    return int(done.stdout)


# fixed thresholds: by default glibc raises its own with the blocks that it has seen, and may keep some of them
GIVES_BACK = {'MALLOC_TRIM_THRESHOLD_': '131072', 'MALLOC_MMAP_THRESHOLD_': '131072'}


@needs_glibc
def test_a_command_on_the_cpu_keeps_freed_memory_unless_the_environment_says_otherwise():
    given_back = page_faults('assert not keep_freed_memory(); resolve_device("cpu")', **GIVES_BACK)
    assert given_back > 20  # with pages of 4 KiB 17,000, with huge ones of 2 MiB 33
    assert page_faults('resolve_device("cpu")') < given_back / 10


@needs_glibc
def test_a_loader_process_gives_it_back():
    assert page_faults("""
resolve_device("cpu")
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
give_back_freed_memory()""") > 20


@pytest.mark.parametrize('name', ['MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'])
def test_each_variable_is_respected(monkeypatch, name):
    monkeypatch.setenv(name, '1')
    assert not keep_freed_memory()


def test_another_allocator_is_left_alone(monkeypatch):
    def unknown(name):
        raise ValueError('unrecognized configuration name')
    monkeypatch.setattr(os, 'confstr', unknown)
    assert not keep_freed_memory()
    monkeypatch.undo()
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert not keep_freed_memory()
    monkeypatch.undo()
    monkeypatch.setenv('LD_PRELOAD', '/usr/lib/libjemalloc.so.2')
    assert not keep_freed_memory()
