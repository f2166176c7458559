"""Two processes compute what one computes: DDP, FSDP2, distribute_bn, SyncBatchNorm."""
import pytest
import torch

from tests.support.contracts.distributed import (
    WORLD,
    batch,
    every_tool,
    gated_network,
    launch,
    shared_step,
    start,
    step,
    synchronized_on_a_gpu,
)
from tests.support.contracts.networks import difference


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    return launch(every_tool, tmp_path_factory.mktemp('processes'))


def assert_state(actual, expected, tolerance=1e-5):
    assert set(actual) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, atol=tolerance, rtol=tolerance, msg=key)


@pytest.mark.parametrize('tool', ['ddp', 'fsdp'])
def test_a_step_on_halves_of_the_batch_is_the_step_on_all_of_it(processes, tool):
    before = start().state_dict()
    expected = step(start(), batch())
    states = [{k.removeprefix('module.'): v for k, v in p[tool].items() if k != 'loss'} for p in processes]
    value = expected.pop('loss')
    torch.testing.assert_close(sum(p[tool]['loss'] for p in processes) / WORLD, value)
    for state in states:
        assert_state(state, expected)
    moved = [k for k in expected if 'gate_' in k and not torch.equal(expected[k], before[k])]
    assert len(moved) == sum('gate_' in k for k in expected) > 10


def test_sharded_parameters_with_batch_statistics(processes):
    """Each process has the whole batch here, and so its statistics: buffers are not sharded."""
    expected = step(start(frozen=False), batch())
    for process in processes:
        assert_state(process['batch_statistics'], expected, 1e-4)


@pytest.mark.parametrize('reduce', [True, False], ids=['mean', 'broadcast'])
def test_distribute_bn(processes, reduce):
    own = [p[f'own_{reduce}'] for p in processes]
    keys = [k for k in own[0] if 'running_' in k]
    assert any(not torch.equal(own[0][k], own[1][k]) for k in keys)
    for process in processes:
        for key in keys:
            expected = (own[0][key] + own[1][key]) / 2 if reduce else own[0][key]
            torch.testing.assert_close(process[f'distributed_{reduce}'][key], expected, msg=key)
    assert sum('.bn.' in k for k in keys) > 10


def assert_shared(processes, expected, tolerance):
    assert difference(torch.cat([p['logits'] for p in processes]), expected['logits']) < tolerance
    assert difference(torch.cat([p['images'] for p in processes]), expected['images']) < tolerance
    for key, value in expected['gradients'].items():
        assert difference(sum(p['gradients'][key] for p in processes), value) < tolerance, key
    for process in processes:
        assert_state(process['buffers'], expected['buffers'], tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's SyncBatchNorm needs a GPU")
def test_sync_batch_norm(tmp_path):
    """A child that normalizes by all processes is enough: a gate depends on its own instance alone."""
    processes = launch(synchronized_on_a_gpu, tmp_path)
    assert_shared(processes, shared_step(gated_network().cuda(), batch('cuda')), 1e-3)
