"""Replays, clocks and records, with plain calls in the place of graphs."""
import statistics
import time

import pytest
import torch

from iebn_zoo.studies.benchmark.gpu import layers as layers_module
from iebn_zoo.studies.benchmark.gpu.clock import Clock, Replay, capture, warm_up
from iebn_zoo.studies.benchmark.gpu.layers import LayerKernels, measure_layer
from iebn_zoo.studies.benchmark.gpu.models import CompiledModel, GraphedStep, build, measure_model
from iebn_zoo.studies.benchmark.gpu.parts import Case
from iebn_zoo.studies.benchmark.settings import Setting, parse
from iebn_zoo.util.errors import IEBNZooError

CPU = torch.device('cpu')
TEXT = 'bfloat16+channels_last'
FIRST = ('bn', 'iebn', 'bn_relu', 'iebn_relu')


def layer_case(variants=FIRST, references=(), rounds=2):
    return Case('layer', '3x16x5x7', (3, 16, 5, 7), TEXT, variants, references, rounds, 42, reports_copies=True)


def model_case(variants=('bn', 'iebn'), references=()):
    return Case('model', 'resnet20_cifar', (2, 3, 8, 8), TEXT, variants, references, 2, 42)


def test_warm_up_then_replay():
    calls = []
    warm_up(lambda: calls.append(1), CPU, times=3)
    replay = capture(lambda: calls.append(2) or len(calls), CPU)
    assert calls == [1, 1, 1, 2] and replay.result == 4
    replay()
    assert replay.result == 5


def test_clock():
    clock = Clock(CPU)
    clock.flush = torch.empty(2 ** 26, dtype=torch.uint8)  # writing it takes much longer than what is timed
    began = time.perf_counter()
    seconds = [clock.kernel_seconds(lambda: None) for _ in range(5)]
    assert statistics.median(seconds) < (time.perf_counter() - began) / 5 / 10 and clock.flush.eq(0).all()
    assert clock.kernel_seconds(lambda: time.sleep(0.01)) >= 0.01
    assert clock.host_seconds(lambda: time.sleep(0.01)) >= 0.01


def test_records_of_a_layer():
    records = list(measure_layer(layer_case(), parse(TEXT), CPU, Clock(CPU)))
    found = {(r['mode'], r['variant']): r for r in records}
    assert set(found) == {(m, v) for m in ('forward', 'backward', 'infer') for v in FIRST} | {
        ('forward', 'copy3'), ('backward', 'copy5'), ('infer', 'copy2'), ('infer', 'copy3')}
    size = 3 * 16 * 5 * 7 * 2
    for (mode, variant), record in found.items():
        passes = dict(forward=3, backward=5, infer=3 if 'iebn' in variant or variant == 'copy3' else 2)[mode]
        assert record['bytes'] == passes * size and record['execution'] == 'graph' and not record['is_reference']
        assert len(record['seconds']) == 2 and min(record['seconds']) > 0
        if not variant.startswith('copy'):
            assert record['error'] is None and len(record['host_seconds']) == len(record['copy_seconds']) == 2


def test_a_variant_that_fails_leaves_the_others_alone(monkeypatch):
    build_step = layers_module.LayerStep

    def step(variant, *args):
        if variant == 'naive':
            raise RuntimeError('out of memory\nTried to allocate')
        return build_step(variant, *args)

    monkeypatch.setattr(layers_module, 'LayerStep', step)
    records = list(measure_layer(layer_case(('naive', 'se', 'eca'), ('bn',)), parse(TEXT), CPU, Clock(CPU)))
    for record in records:
        assert (record.get('error') == 'RuntimeError: out of memory') == (record['variant'] == 'naive')
        assert record['is_reference'] == (record['variant'] == 'bn')
        assert bool(record['seconds']) == (record['variant'] != 'naive')


@pytest.mark.parametrize('phase', ['forward', 'backward'])
def test_a_wrong_replay_is_not_timed(monkeypatch, phase):
    def spoilt(work, device, pool=None):
        def wrong():
            result = work()
            if isinstance(result, tuple):
                return tuple(t * 1.05 for t in result) if phase == 'backward' else result
            return result * 1.05 if phase == 'forward' else result
        return Replay(None, wrong, wrong())

    monkeypatch.setattr(layers_module, 'capture', spoilt)
    with pytest.raises(IEBNZooError, match=f'the CUDA graph is wrong, so it is not timed: iebn, {phase} is off by 5'):
        LayerKernels('iebn', layer_case(), parse(TEXT), 'train', CPU)


def test_records_of_a_network():
    records = list(measure_model(model_case(('naive',), ('bn',)), parse(TEXT), CPU, Clock(CPU), ('eager', 'graph')))
    keys = [(r['mode'], r['execution'], r['variant']) for r in records]
    assert keys == [(m, e, v) for m in ('train', 'infer') for e in ('eager', 'graph') for v in ('bn', 'naive')]
    for record in records:
        assert record['error'] is None and len(record['seconds']) == len(record['host_seconds']) == 2
        assert bool(record['peak_bytes']) == (record['execution'] == 'eager')


def test_a_graphed_step_trains_as_the_plain_one():
    plain, graphed = (build('iebn', model_case(), Setting(), 'train', CPU) for _ in range(2))
    step = GraphedStep(graphed)
    graphed.model.load_state_dict(plain.model.state_dict())
    for _ in range(3):
        plain()
        step()
    for (name, p), q in zip(plain.model.named_parameters(), graphed.model.parameters(), strict=True):
        torch.testing.assert_close(q, p, msg=name)


def test_a_wrong_graph_of_a_network_is_not_timed(monkeypatch):
    import iebn_zoo.studies.benchmark.gpu.models as models
    monkeypatch.setattr(models, 'capture', lambda work, device, pool: Replay(None, lambda: work() * 0.9, None))
    with pytest.raises(IEBNZooError, match='the CUDA graph is wrong'):
        GraphedStep(build('iebn', model_case(), Setting(), 'infer', CPU))


def test_a_compiled_network(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, 'compile', lambda module, **how: compiled.append(how) or module)
    setting = Setting('bfloat16', True, backend='inductor', compile_mode='max-autotune')
    records = list(CompiledModel(model_case(('iebn',)), setting, CPU).measure(Clock(CPU)))
    assert compiled == 2 * [dict(backend='inductor', mode='max-autotune')]  # train, infer
    assert [(r['mode'], r['execution'], r['variant'], r['error']) for r in records] == [
        ('train', 'compile', 'iebn', None), ('infer', 'compile', 'iebn', None)]
