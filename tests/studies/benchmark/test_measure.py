"""Rounds, order, failures; with steps whose cost is known."""
import statistics
import time

import pytest
import torch

from iebn_zoo.studies.benchmark.machine import check_compiler, copy_bandwidth, facts
from iebn_zoo.studies.benchmark.measure import MIN_SAMPLE_S, WARM_UP, measure
from iebn_zoo.util.errors import UsageError

CPU = torch.device('cpu')


class Step:
    """Sleeps."""

    def __init__(self, log, name, seconds):
        self.log, self.name, self.seconds = log, name, seconds

    def __call__(self):
        self.log.append(self.name)
        time.sleep(self.seconds)

    def resident(self):
        return [torch.zeros(10)]


def test_every_variant_once_a_round_in_rotated_order():
    log, rounds = [], []
    seconds = {'a': 0.025, 'b': 0.05, 'c': 0.03}
    results = measure({k: lambda k=k, s=s: Step(log, k, s) for k, s in seconds.items()}, 4, CPU,
                      after_round=lambda: rounds.append(len(log)))
    timed = log[-12:]
    assert [''.join(timed[i:i + 3]) for i in range(0, 12, 3)] == ['abc', 'bca', 'cab', 'abc']
    assert rounds == [len(log) - 9, len(log) - 6, len(log) - 3, len(log)]
    # warm-up, memory and calibration of one variant stand together, before the rounds
    before = log[:-12]
    assert before == sorted(before) and all(before.count(name) >= WARM_UP + 2 for name in seconds)
    for name, result in results.items():
        assert len(result.seconds) == 4 and result.error is None and result.peak_bytes == 40
        assert seconds[name] <= min(result.seconds) and statistics.median(result.seconds) < 2 * seconds[name]


def test_short_steps_are_repeated():
    log, ends = [], []
    result = measure({'short': lambda: Step(log, 'short', 0.002)}, 2, CPU, lambda: ends.append(len(log)))['short']
    repeats = ends[1] - ends[0] - 1  # a sample begins with a step that does not count
    assert 3 <= repeats <= MIN_SAMPLE_S / 0.002
    assert min(result.seconds) >= 0.002


@pytest.mark.parametrize('fails_in', ['warm-up', 'memory', 'second round'])
def test_a_failure_is_one_variants_own(fails_in):
    log, rounds = [], []

    class Bad(Step):
        def __call__(self):
            calls = log.count(self.name)
            if {'warm-up': True, 'memory': calls == WARM_UP, 'second round': len(rounds) == 1}[fails_in]:
                raise RuntimeError('out of memory\nTried to allocate')
            super().__call__()

    results = measure({name: lambda name=name: (Bad if name == 'bad' else Step)(log, name, 0.02)
                       for name in ('good', 'bad', 'other')}, 3, CPU, after_round=lambda: rounds.append(1))
    assert results['bad'].error == 'RuntimeError: out of memory' and not results['bad'].seconds
    for name in ('good', 'other'):
        assert len(results[name].seconds) == 3 and results[name].error is None


def test_a_variant_that_cannot_be_built():
    def build():
        raise UsageError('cannot create it.\nCheck the name.')

    results = measure({'bad': build, 'good': lambda: Step([], 'good', 0.02)}, 2, CPU)
    assert results['bad'].error == 'UsageError: cannot create it.' and len(results['good'].seconds) == 2


def test_real_failure():
    """An allocation that no machine can make."""
    class Huge(Step):
        def __call__(self):
            torch.empty(2 ** 60, dtype=torch.uint8)

    result = measure({'huge': lambda: Huge([], 'huge', 0)}, 2, CPU)['huge']
    assert 'allocate' in result.error and len(result.error.splitlines()) == 1


def test_interrupt_is_not_a_failure_of_a_variant():
    def build():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure({'a': build}, 2, CPU)


def test_machine(monkeypatch):
    found = facts(CPU)
    assert found['torch'] == torch.__version__ and found['threads'] == torch.get_num_threads() and found['cpu']
    monkeypatch.setattr('iebn_zoo.studies.benchmark.machine._COPIED_BYTES', 2 ** 24)
    assert 1e8 < copy_bandwidth(CPU, rounds=5) < 1e13


def test_unknown_backend():
    check_compiler('eager', CPU)
    with pytest.raises(UsageError, match="backend 'nothing' does not work here"):
        check_compiler('nothing', CPU)
