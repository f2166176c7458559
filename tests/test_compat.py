"""Each private name of torch and timm that the package uses is there and means what it is used for."""
import copy
import inspect
from importlib import import_module

import pytest
import timm
import torch
from torch import nn

import iebn_zoo  # noqa: F401  registers the models

# where the name is looked up, the name, and who needs it
NAMES = [
    ('torch', '_add_relu_', 'iebn_zoo.ops.passes.affine'),
    ('torch.autograd.forward_ad', '_current_level', 'iebn_zoo.ops'),
    ('torch._C', '_are_functorch_transforms_active', 'iebn_zoo.ops'),
    ('torch._C._functorch', 'is_legacy_batchedtensor', 'iebn_zoo.ops.function'),
    ('torch.compiler', '_is_exporting_flag', 'iebn_zoo.ops'),
    ('torch.cpu', '_is_avx512_bf16_supported', 'iebn_zoo.training.engine.evaluate'),
    ('torch.cpu', '_is_amx_tile_supported', 'iebn_zoo.training.engine.evaluate'),
    ('torch.jit', 'is_scripting', 'iebn_zoo.layers'),
    ('torch.jit', 'is_tracing', 'iebn_zoo.ops'),
    ('huggingface_hub.utils._http', '_GLOBAL_CLIENT_FACTORY', 'iebn_zoo.hub.push.patience'),
    ('huggingface_hub.utils._http', 'default_client_factory', 'iebn_zoo.hub.push.patience'),
    ('torch.nn.modules.batchnorm', '_BatchNorm', 'iebn_zoo.conversion.obstacles'),
    ('torch.nn.modules.batchnorm', '_NormBase', 'iebn_zoo.training.engine.step_graph'),
    ('torch.nn.modules.module', '_global_forward_hooks', 'iebn_zoo.layers.conv_output'),
    ('torch.nn.modules.module', '_global_forward_pre_hooks', 'iebn_zoo.layers.conv_output'),
    ('torch.utils._python_dispatch', '_get_current_dispatch_mode', 'iebn_zoo.ops'),
    ('torch._dynamo', 'OptimizedModule', 'iebn_zoo.conversion.folding.obstacles'),
    ('timm.layers', 'register_notrace_module', 'iebn_zoo.layers'),
    ('timm.layers.create_norm_act', '_NORM_ACT_REQUIRES_ARG', 'iebn_zoo.layers.norm_act'),
    ('timm.models._features', 'feature_take_indices', 'iebn_zoo.models.cifar_resnet'),
]
OF_A_MODULE = ('_modules', '_parameters', '_buffers', '_forward_hooks', '_forward_pre_hooks', '_backward_hooks',
               '_backward_pre_hooks', '_compiled_call_impl', '_load_from_state_dict')


@pytest.mark.parametrize('owner, name, user', NAMES, ids=[f'{owner}.{name}' for owner, name, _ in NAMES])
def test_a_private_name_is_there(owner, name, user):
    assert hasattr(import_module(owner), name), (
        f'{owner} of torch {torch.__version__}, timm {timm.__version__} has no {name}, which {user} needs: find what '
        'replaces it and change iebn_zoo/_compat.py')


@pytest.mark.parametrize('name', OF_A_MODULE)
def test_a_private_attribute_of_a_module_is_there(name):
    assert hasattr(nn.Module(), name), (
        f'nn.Module of torch {torch.__version__} has no {name}: find what replaces it and change iebn_zoo/_compat.py')


@pytest.mark.parametrize('name', ['_backward_hooks', '_post_accumulate_grad_hooks'])
def test_a_private_attribute_of_a_tensor_is_there(name):
    assert hasattr(torch.ones(1), name), (
        f'Tensor of torch {torch.__version__} has no {name}: find what replaces it and change iebn_zoo/_compat.py')


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason='torch is built without CUDA')
def test_the_stream_of_a_gpu():
    assert hasattr(torch._C, '_cuda_getCurrentRawStream'), (
        'torch._C has no _cuda_getCurrentRawStream, which iebn_zoo.ops.triton_counters needs: find what replaces it '
        'and change iebn_zoo/_compat.py')


@pytest.mark.parametrize('machine, found, expected', [
    ('x86_64', dict(bf16=False, amx=True), True), ('AMD64', dict(bf16=True, amx=False), True),
    ('x86_64', dict(bf16=False, amx=False), False), ('x86_64', {}, None),
    ('aarch64', dict(bf16=False, amx=False), None)])
def test_instructions_for_bfloat16(monkeypatch, machine, found, expected):
    monkeypatch.setattr('platform.machine', lambda: machine)
    for name, key in (('_is_avx512_bf16_supported', 'bf16'), ('_is_amx_tile_supported', 'amx')):
        if key in found:
            monkeypatch.setattr(torch.cpu, name, lambda key=key: found[key])
        else:
            monkeypatch.delattr(torch.cpu, name)
    from iebn_zoo import _compat
    assert _compat.has_bfloat16_instructions() is expected


def test_loading_goes_through_what_the_models_override():
    assert list(inspect.signature(nn.Module._load_from_state_dict).parameters)[:3] == ['self', 'state_dict', 'prefix']

    class Module(nn.Module):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            raise LookupError(prefix)

    with pytest.raises(LookupError, match='0.'):
        nn.Sequential(Module()).load_state_dict({})


def test_timm_keeps_the_arguments_of_a_model():
    from iebn_zoo import _compat
    model = timm.create_model('resnet18', device='meta', layers=(1, 1, 1, 1))
    assert _compat.model_args(model) == {'layers': (1, 1, 1, 1)}, 'timm.create_model sets no _model_args'
    _compat.set_model_args(model, {})
    assert model._model_args == {} and _compat.model_args(nn.Module()) is None


def test_a_compiled_module_is_known():
    from iebn_zoo import _compat
    module = nn.ReLU()
    assert not _compat.is_compiled(module) and not _compat.has_compiled_call(module)
    assert _compat.is_compiled(torch.compile(module))
    assert next(iter(torch.compile(nn.Linear(1, 1)).state_dict())).startswith('_orig_mod.')  # weights drop it
    module.compile()
    assert not _compat.is_compiled(module) and _compat.has_compiled_call(module)


def test_hooks_are_seen_and_moved():
    from iebn_zoo import _compat
    assert not _compat.has_global_hooks()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert _compat.has_global_hooks()
    handle.remove()
    for register in ('register_forward_hook', 'register_forward_pre_hook', 'register_full_backward_hook',
                     'register_full_backward_pre_hook'):
        old, new, seen = nn.ReLU(), nn.ReLU(), []
        assert not _compat.is_hooked(old) and _compat.hooks_of(old) == []
        handle = getattr(old, register)(lambda *args, seen=seen: seen.append(1))
        assert _compat.is_hooked(old), f'is_hooked does not see {register}'
        assert len(_compat.hooks_of(old)) == 1 and _compat.hooks_of(old)[0].endswith('_hooks')
        _compat.move_hooks(old, new)
        new(torch.ones(1, requires_grad=True)).backward()
        assert seen == [1], f'move_hooks loses {register}'
        handle.remove()
        assert not _compat.is_hooked(new)
    old.forward = lambda x: x
    assert _compat.is_hooked(old) and not _compat.has_hooks(old) and not _compat.has_load_hooks(old)
    handle = old.register_load_state_dict_pre_hook(lambda *args: None)
    assert _compat.has_load_hooks(old)
    handle.remove()
    assert not _compat.has_load_hooks(old)


def test_the_dicts_of_a_module_are_its_own():
    from iebn_zoo import _compat
    shared = nn.BatchNorm1d(2, affine=False)
    module = nn.Module()
    module.a = module.b = shared
    module.c = None
    module.register_module('d', None)
    assert list(_compat.children_of(module)) == ['a', 'b', 'd']
    _compat.children_of(module)['a'] = nn.Identity()
    assert type(module.a) is nn.Identity and module.b is shared
    assert _compat.parameters_of(shared) == {'weight': None, 'bias': None}
    _compat.buffers_of(shared)['running_mean'] = torch.ones(2)
    assert torch.equal(copy.deepcopy(shared).running_mean, torch.ones(2))


def test_one_pass_of_sum_and_relu():
    from iebn_zoo import _compat
    x = torch.tensor([-2.0, 3.0])
    assert _compat.add_relu_(x, torch.tensor([1.0, 1.0])) is x and x.tolist() == [0.0, 4.0]


def test_what_runs_an_operator_is_known():
    from iebn_zoo import _compat
    assert not _compat.functorch_transforms_active() and _compat.current_dispatch_mode() is None
    assert not _compat.is_exporting() and not _compat.is_tracing() and not _compat.is_scripting()
    inside = []
    torch.vmap(lambda x: inside.append(_compat.functorch_transforms_active()) or x)(torch.ones(2))

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Mode():
        inside.append(_compat.current_dispatch_mode() is not None)
    torch.jit.trace(lambda x: inside.append(_compat.is_tracing()) or x + 1, torch.ones(1), check_trace=False)

    class Exported(nn.Module):
        def forward(self, x):
            if _compat.is_exporting():
                return x + 1
            return x

    inside.append(torch.export.export(Exported(), (torch.ones(1),)).module()(torch.ones(1)).item() == 2)
    assert inside == [True] * 4


def test_a_batched_gradient_is_known():
    from iebn_zoo import _compat
    seen = []

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            seen.append((_compat.is_legacy_batched(dy), _compat.functorch_transforms_active()))
            return dy

    x, batch = torch.ones(2, requires_grad=True), torch.ones(3, 2)
    y = Node.apply(x)
    torch.autograd.grad(y, x, batch[0], retain_graph=True)
    torch.autograd.grad(y, x, batch, is_grads_batched=True, retain_graph=True)
    torch.vmap(lambda dy: torch.autograd.grad(y, x, dy, retain_graph=True))(batch)
    assert seen == [(False, False), (True, False), (False, True)]


def test_the_processes_of_a_loader_end():
    from iebn_zoo import _compat
    loader = torch.utils.data.DataLoader(range(4), num_workers=1, persistent_workers=True)
    first = [int(x) for x in loader]
    (process,) = loader._iterator._workers
    _compat.shut_down_loader(loader)
    assert not process.is_alive() and loader._iterator is None
    assert [int(x) for x in loader] == first
    _compat.shut_down_loader(loader)
    _compat.shut_down_loader(torch.utils.data.DataLoader(range(4)))


def test_the_clients_of_the_hub_are_made_by_the_factory_that_was_set():
    from huggingface_hub import set_client_factory

    from iebn_zoo import _compat
    before = _compat.hub_client_factory()

    def factory():
        return before()

    set_client_factory(factory)
    try:
        assert _compat.hub_client_factory() is factory
    finally:
        set_client_factory(before)
