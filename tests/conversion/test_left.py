"""What a conversion must not touch: it is left with the reason, or refused, and nothing is half changed."""
import copy

import pytest
import timm
import timm.layers
import torch
import torch.ao.nn.intrinsic.qat as qat
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parametrizations, prune

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn, convert_iebn_to_bn
from iebn_zoo.util.errors import UsageError


def conv_bn(norm):
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3), norm)


def frozen(norm):
    return timm.layers.freeze_batch_norm_2d(nn.Sequential(norm))[0]


def hooked(method):
    norm = nn.BatchNorm2d(6)
    getattr(norm, method)(lambda *args, **kwargs: None)
    return norm


def pruned():
    norm = nn.BatchNorm2d(6)
    prune.l1_unstructured(norm, 'weight', 0.5)
    return norm


def with_attribute(**attributes):
    norm = nn.BatchNorm2d(6)
    for name, value in attributes.items():
        setattr(norm, name, value)
    return norm


def hooked_weight(method):
    norm = nn.BatchNorm2d(6)
    getattr(norm.weight, method)(lambda weight: None)
    return norm


def compiled():
    norm = nn.BatchNorm2d(6)
    norm.compile(backend='eager')
    return norm


def own_forward():
    norm = nn.BatchNorm2d(6)
    norm.forward = nn.BatchNorm2d(6).forward
    return norm


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


LEFT = {
    'sync': (lambda: nn.SyncBatchNorm(6), 'then with convert_sync_batchnorm'),
    'split': (lambda: timm.layers.convert_splitbn_model(nn.BatchNorm2d(6)), 'then with convert_splitbn_model'),
    'frozen': (lambda: frozen(nn.BatchNorm2d(6)), 'is frozen: timm.layers.unfreeze_batch_norm_2d first'),
    'frozen_act': (lambda: frozen(timm.layers.BatchNormAct2d(6)), 'is frozen'),
    '1d': (lambda: nn.BatchNorm1d(6), 'not 4-D'),
    '3d': (lambda: nn.BatchNorm3d(6), 'not 4-D'),
    'lazy': (lambda: nn.LazyBatchNorm2d(), 'run one batch through the model first'),
    'inplace_abn': (lambda: timm.layers.InplaceAbn(6), 'is not a BatchNorm2d'),
    'subclass': (lambda: OwnNorm(6), 'is a subclass of BatchNorm2d'),
    'iebn': (lambda: IEBatchNorm2d(6), 'is gated already'),
    'iebn_act': (lambda: IEBatchNormAct2d(6), 'is gated already'),
    'qat': (lambda: qat.ConvBn2d(6, 6, 1, qconfig=torch.ao.quantization.get_default_qat_qconfig('x86')),
            'belongs to quantization'),
    'forward_hook': (lambda: hooked('register_forward_hook'), 'has forward_hooks: remove them first'),
    'pre_hook': (lambda: hooked('register_forward_pre_hook'), 'has forward_pre_hooks'),
    'backward_hook': (lambda: hooked('register_full_backward_hook'), 'has backward_hooks'),
    'load_hook': (lambda: hooked('register_load_state_dict_post_hook'), 'has load_state_dict_post_hooks'),
    'weight_hook': (lambda: hooked_weight('register_hook'), 'has a hook on its weight: remove it first'),
    'grad_hook': (lambda: hooked_weight('register_post_accumulate_grad_hook'), 'has a hook on its weight'),
    'momentum': (lambda: nn.BatchNorm2d(6, momentum=1.5), 'cannot be gated: its momentum is 1.5'),
    'eps': (lambda: nn.BatchNorm2d(6, eps=-1.), 'cannot be gated: its eps is -1.0'),
    'pruned': (pruned, 'has forward_pre_hooks'),
    'weight_norm': (lambda: parametrizations.weight_norm(nn.BatchNorm2d(6), dim=None), 'is parametrized'),
    'child': (lambda: with_attribute(observer=nn.Identity()), "has 'observer'"),
    'parameter': (lambda: with_attribute(scale=nn.Parameter(torch.ones(1))), "has 'scale'"),
    'own_forward': (own_forward, 'has a forward of its own'),
    'compiled': (compiled, 'is compiled: compile after converting'),
    'half_statistics': (lambda: with_attribute(running_mean=None), 'tracks running statistics that are None'),
}


@pytest.mark.parametrize('build, reason', LEFT.values(), ids=LEFT)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_left_with_a_reason(build, reason):
    norm = build()
    model, report = convert_bn_to_iebn(conv_bn(norm))
    assert model[2] is norm and type(model[0]) is IEBatchNorm2d
    left, = report.left
    assert left.names == ('2',) and left.before == type(norm).__name__ and reason in left.note
    with pytest.raises(UsageError, match='no norm of this .* can be converted'):
        convert_bn_to_iebn(nn.Sequential(norm))


def test_other_norms_are_not_mentioned():
    _, report = convert_bn_to_iebn(nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), timm.layers.LayerNorm2d(4)))
    assert len(report.layers) == 1


class Shared(nn.Module):
    """One norm, registered twice and called three times."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), self.first)
        self.again = self.block

    def forward(self, x):
        return self.again(self.block(self.first(x)))


def test_a_shared_norm_stays_shared():
    model = Shared().double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    expected = copy.deepcopy(model)(x)
    model, report = convert_bn_to_iebn(model)
    assert model.first is model.block[1] is model.again[1] and isinstance(model.first, IEBatchNorm2d)
    assert report.converted[0].label == 'first = block.1 = again.1'
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    model, _ = convert_iebn_to_bn(model)
    assert model.first is model.block[1] is model.again[1] and type(model.first) is nn.BatchNorm2d


def test_a_norm_that_is_also_in_a_shortcut_is_left():
    norm = nn.BatchNorm2d(3)
    block = nn.ModuleDict({'bn1': norm, 'shortcut': nn.Sequential(norm)})
    model, report = convert_bn_to_iebn(nn.Sequential(nn.BatchNorm2d(3), block))
    assert model[1]['bn1'] is norm and 'shortcut' in report.left[0].note


def test_a_norm_in_a_container_that_is_also_in_a_shortcut_is_left():
    inner = nn.Sequential(nn.BatchNorm2d(3))
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ModuleDict({'main': inner, 'shortcut': inner}))
    model[1].add_module('loop', model)  # a cycle ends
    _, report = convert_bn_to_iebn(model)
    assert report.left[0].names == ('1.main.0', '1.shortcut.0') and report.converted[0].label == '0'


def test_a_tied_weight_stays_tied():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[2].weight = model[1].weight
    _, report = convert_bn_to_iebn(model)
    assert [layer.note for layer in report.left] == [f'shares its weight with {i}.weight' for i in (2, 1)]


def test_a_weight_that_is_the_bias_too_stays_so():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[1].bias = model[1].weight
    _, report = convert_bn_to_iebn(model)
    assert [layer.note for layer in report.left] == ['shares its weight with 1.bias']
    assert model[1].bias is model[1].weight


def test_graph_module():
    """FX calls torch's norms as modules and keeps working; of timm's it keeps only the tensors."""
    x = torch.randn(2, 3, 5, 5)
    graph = torch.fx.symbolic_trace(conv_bn(nn.BatchNorm2d(6)).eval())
    expected = graph(x)
    converted, _ = convert_bn_to_iebn(graph)
    assert isinstance(converted.get_submodule('2'), IEBatchNorm2d)
    torch.testing.assert_close(converted(x), expected)
    inlined = torch.fx.symbolic_trace(nn.Sequential(timm.layers.BatchNormAct2d(3)).eval())
    with pytest.raises(UsageError, match='is not a BatchNorm2d'):
        convert_bn_to_iebn(inlined)


@pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning')
@pytest.mark.parametrize('convert', [convert_bn_to_iebn, convert_iebn_to_bn])
def test_compiled_by_torchscript(convert):
    inner = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(UsageError, match='0 .RecursiveScriptModule. is compiled by TorchScript'):
        convert(nn.Sequential(inner))


@pytest.mark.parametrize('convert', [convert_bn_to_iebn, convert_iebn_to_bn])
@pytest.mark.parametrize('build, name', [(lambda: nn.BatchNorm2d(3), 'the model'), (lambda: nn.Conv2d(3, 3, 1), '1')])
def test_compiled_by_torch_compile(convert, build, name):
    """It would keep the forward of a norm that is gone."""
    model = torch.compile(build(), backend='eager')
    model = model if name == 'the model' else nn.Sequential(nn.BatchNorm2d(3), model)
    with pytest.raises(UsageError, match=f'{name} .OptimizedModule. is compiled by torch.compile.*\n.*its _orig_mod'):
        convert(model)


def test_compiled_in_place():
    model, x = conv_bn(nn.BatchNorm2d(6)).eval(), torch.randn(2, 3, 5, 5)
    model.compile(backend='eager')
    with torch.no_grad():
        expected = model(x)
        convert_bn_to_iebn(model)
        torch.testing.assert_close(model(x), expected)
        model[0].gate_weight.fill_(3.)
        assert not torch.allclose(model(x), expected, atol=1e-2)
        torch.testing.assert_close(model(x), model._call_impl(x))


@pytest.mark.parametrize('convert', [convert_bn_to_iebn, convert_iebn_to_bn])
def test_data_parallel(convert):
    model = nn.DataParallel(conv_bn(nn.BatchNorm2d(6)))
    with pytest.raises(UsageError, match='the model is wrapped in DataParallel'):
        convert(model)
    assert type(model.module[2]) is nn.BatchNorm2d


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('convert', [convert_bn_to_iebn, convert_iebn_to_bn])
def test_wrapped_for_distributed_training(process_group, convert):
    model = nn.parallel.DistributedDataParallel(conv_bn(nn.BatchNorm2d(6)))
    with pytest.raises(UsageError, match='the model .DistributedDataParallel. manages its parameters'):
        convert(model)
    assert type(model.module[2]) is nn.BatchNorm2d


def test_sharded_parameters(process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = distribute_module(conv_bn(nn.BatchNorm2d(6)), init_device_mesh('cpu', (1,)))
    with pytest.raises(UsageError, match='has a DTensor as its weight'):
        convert_bn_to_iebn(model)


@pytest.mark.parametrize('thing', [{'state_dict': {}}, 'resnet18', nn.BatchNorm2d], ids=['dict', 'str', 'class'])
def test_not_a_module(thing):
    with pytest.raises(UsageError, match=f'cannot convert a {type(thing).__name__}'):
        convert_bn_to_iebn(thing)


@pytest.mark.parametrize('gate_shortcuts', [False, True])
def test_reparameterization_is_loud(gate_shortcuts):
    block = timm.models.byobnet.RepVggBlock(8, 8)
    model, _ = convert_bn_to_iebn(nn.Sequential(block), gate_shortcuts=gate_shortcuts)
    with pytest.raises((AssertionError, AttributeError)):
        timm.utils.model.reparameterize_model(model)


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, timm.layers.BatchNormAct2d])
def test_conv_bn_fusion_is_loud(norm):
    model, _ = convert_bn_to_iebn(nn.Sequential(nn.Conv2d(3, 6, 1), norm(6)).eval())
    with pytest.raises(AttributeError):
        torch.nn.utils.fuse_conv_bn_eval(*model)
