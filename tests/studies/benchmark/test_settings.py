import pytest
import torch
from torch import nn

from iebn_zoo.studies.benchmark.settings import Setting, parse
from iebn_zoo.studies.benchmark.steps import LayerStep, ModelStep
from iebn_zoo.util.errors import UsageError

CPU = torch.device('cpu')


@pytest.mark.parametrize('text, setting', [
    ('float32', Setting()),
    ('channels_last', Setting(channels_last=True)),
    ('compile', Setting(backend='inductor')),
    ('channels_last+bfloat16', Setting('bfloat16', True)),
    ('float16+channels_last+compile', Setting('float16', True, 'inductor')),
])
def test_parse(text, setting):
    assert parse(text) == setting and parse(setting.name) == setting


@pytest.mark.parametrize('text', ['', 'float64', 'float32+bfloat16', 'compile+compile', 'bfloat16,compile', 'float32+'])
def test_not_a_setting(text):
    with pytest.raises(UsageError, match='is not one'):
        parse(text)


@pytest.mark.parametrize('variant', ['bn', 'se', 'iebn', 'iebn_relu'])
def test_layer_gets_what_the_setting_says(variant):
    seen = []
    step = LayerStep(variant, (2, 16, 4, 4), Setting('bfloat16', channels_last=True), 'train', CPU)
    step.layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    step()
    (x, y), = seen
    assert x.dtype == y.dtype == torch.bfloat16
    assert x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    assert {p.dtype for p in step.layer.parameters()} == {torch.float32} and step.layer.training


@pytest.mark.parametrize('mode', ['train', 'infer'])
def test_model_step(mode):
    step = ModelStep('iebn', 'resnet20_cifar', (2, 3, 8, 8), Setting('bfloat16', channels_last=True), mode, CPU)
    before = step.model.conv1.weight.detach().clone()
    seen = []
    step.model.fc.register_forward_hook(lambda module, args, output: seen.append(output))
    step()
    assert seen[0].dtype == torch.bfloat16 and seen[0].is_inference() == (mode == 'infer')
    assert step.model.training == (mode == 'train') == (not torch.equal(before, step.model.conv1.weight))
    convolutions = [m for m in step.model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)


def test_compiled_step_runs_the_compiled_module():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    step = LayerStep('iebn', (2, 3, 4, 4), Setting(backend=backend), 'train', CPU)
    step()
    step()
    assert len(graphs) == 1
