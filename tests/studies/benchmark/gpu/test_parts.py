"""From flags to parts."""
import json

import pytest
import torch

from iebn_zoo.studies.benchmark.arguments import build_parser
from iebn_zoo.studies.benchmark.check.oracle import SHAPES
from iebn_zoo.studies.benchmark.gpu.parts import LIMITS, NETWORKS, SHAPES_OF_LAYERS, TIME_LIMIT_S, Job, make_parts
from iebn_zoo.util.errors import UsageError

GPU, CPU = torch.device('cuda', 0), torch.device('cpu')


def parts(*flags, device=GPU):
    return {p.name: p for p in make_parts(build_parser().parse_args(['--gpu', *flags]), device)}


def test_default():
    found = parts()
    assert list(found) == list(LIMITS) and TIME_LIMIT_S < 240
    assert {p.name: p.limit for p in found.values()} == LIMITS
    assert {job.task for job in found['check'].jobs} == {'check'} and not any(j.backend for j in found['check'].jobs)
    assert tuple(shape for job in found['check'].jobs for shape in job.shapes) == SHAPES, 'each in one process'
    (layers,) = found['layers'].jobs
    assert [c.name for c in layers.cases] == [text.replace(',', 'x') for text in SHAPES_OF_LAYERS]
    assert layers.cases[0].variants == ('bn', 'iebn', 'bn_relu', 'iebn_relu') and layers.cases[0].references == ()
    (others,) = found['other layers'].jobs
    assert others.cases[0].variants == ('naive', 'se', 'eca') and others.cases[0].references == ('bn',)
    assert [job.cases[0].name for job in found['models'].jobs] == list(NETWORKS)
    shapes = {job.cases[0].name: job.cases[0].shape for job in found['models'].jobs}
    assert shapes['resnet50'] == (128, 3, 224, 224) and shapes['resnet164_cifar'] == (128, 3, 32, 32)
    check, *compiled = found['compiled'].jobs
    assert check.task == 'check' and check.backend == 'inductor'
    assert [(j.cases[0].name, *j.cases[0].variants) for j in compiled if j.task == 'compiled'] == [
        (name, variant) for name in NETWORKS for variant in ('bn', 'iebn')]
    assert {j.compile_mode for j in found['compiled'].jobs} == {'default'}
    settings = {c.setting for p in found.values() for j in p.jobs for c in j.cases}
    assert settings == {'bfloat16+channels_last'}


def test_chosen():
    found = parts('--models', '--shapes', '2,3,4,5', '--variants', 'se', '--executions', 'graph', '--time-limit', '23',
                  '--rounds', '3', '--seed', '7')
    assert list(found) == ['check', 'layers', 'other layers']
    (job,) = found['layers'].jobs
    assert job.cases[0].variants == ('bn',), 'what se is compared with'
    (case,) = found['other layers'].jobs[0].cases
    assert (case.shape, case.variants, case.rounds, case.seed) == ((2, 3, 4, 5), ('se',), 3, 7)
    assert found['layers'].limit == pytest.approx(LIMITS['layers'] * 23 / TIME_LIMIT_S)
    assert list(parts('--shapes', '--executions', 'compile')) == ['check', 'compiled', 'other compiled']


@pytest.mark.parametrize('mode, of_layers', [
    ('default', 'default'), ('reduce-overhead', 'default'), ('max-autotune', 'max-autotune-no-cudagraphs')])
def test_compile_mode(mode, of_layers):
    """Layers are captured by us: a mode that captures graphs itself would be in the way."""
    jobs = parts('--compile-mode', mode, '--variants', 'iebn')['compiled'].jobs
    assert {job.compile_mode for job in jobs if job.task != 'layers'} == {mode}
    assert {job.compile_mode for job in jobs if job.task == 'layers'} == {of_layers}
    setting = jobs[0].setting('float16')
    assert (setting.dtype, setting.backend, setting.compile_mode) == ('float16', 'inductor', mode)
    assert not parts('--torchcompile', 'aot_eager')['compiled'].jobs[0].compile_mode


def test_dry_run():
    found = parts('--dry-run', device=CPU)
    assert list(found) == list(LIMITS)
    jobs = [job for p in found.values() for job in p.jobs]
    assert {job.device for job in jobs} == {'cpu'} and {job.backend for job in jobs} == {'', 'aot_eager'}
    assert max(c.shape[0] * c.shape[2] for job in jobs for c in job.cases) <= 64


def test_a_job_survives_json():
    for part in parts().values():
        for job in part.jobs:
            assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_expected_records():
    found = parts('--models', 'resnet18', '--shapes', '2,3,4,5', '--variants', 'iebn')
    def keys(job):
        return {(r['name'], r['mode'], r['execution'], r['variant']) for r in job.expected()}
    assert keys(found['layers'].jobs[0]) == {
        ('2x3x4x5', mode, 'graph', v) for mode in ('forward', 'backward', 'infer') for v in ('bn', 'iebn')}
    assert keys(found['models'].jobs[0]) == {
        ('resnet18', mode, how, v) for mode in ('train', 'infer') for how in ('eager', 'graph') for v in ('bn', 'iebn')}
    assert keys(found['compiled'].jobs[1]) == {('resnet18', mode, 'compile', 'bn') for mode in ('train', 'infer')}
    assert keys(found['check'].jobs[0]) == set()


@pytest.mark.parametrize('flags, named', [
    (['--settings', 'bfloat16+compile'], 'names compile'),
    (['--models', '--shapes'], 'nothing to measure'),
    (['--models', 'resnet51'], "unknown model 'resnet51'"),
    (['--time-limit', '0'], '--time-limit is 0'),
    (['--time-limit', 'nan'], '--time-limit is nan'),
    (['--rounds', '1'], '--rounds is 1'),
])
def test_mistakes(flags, named):
    with pytest.raises(UsageError, match=named) as e:
        parts(*flags)
    assert len(str(e.value).splitlines()) <= 3
