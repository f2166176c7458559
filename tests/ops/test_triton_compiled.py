"""The Triton kernels compiled for GPUs that need not be there: vector loads, registers, how many are compiled."""
import re
import subprocess
from pathlib import Path

import pytest
import torch

from iebn_zoo.ops import triton as backend
from iebn_zoo.ops.function import Needs
from tests.ops.test_reference import draw
from tests.support.ops.triton_runs import INTERPRETED, layouts, tensors_of

triton = pytest.importorskip('triton', reason='Triton is not installed')
pytestmark = pytest.mark.skipif(INTERPRETED, reason='the interpreter compiles nothing')
KERNELS = {'instance_statistics', 'instance_sums', 'normalize', 'gradient_sums', 'input_gradient'}


@pytest.fixture
def compiled(monkeypatch):
    """``compiled(90)``: from now on launches compile for sm_90 and do not run. {kernel name: [what Triton compiled]}"""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction
    launch = JITFunction.run

    def compile_for(capability):
        results = {}

        class CompileOnly:
            get_current_device = get_current_stream = staticmethod(lambda *_: capability)
            get_current_target = staticmethod(lambda: GPUTarget('cuda', capability, 32))

        def compile_only(self, *args, grid, warmup, **options):
            found = results.setdefault(self.fn.__name__, [])
            kernel = launch(self, *args, grid=grid, warmup=True, **options)
            if kernel not in found:
                found.append(kernel)

        monkeypatch.setattr(JITFunction, 'run', compile_only)
        # new, old Triton
        monkeypatch.setattr(driver, '_active' if hasattr(driver, '_active') else 'active', CompileOnly())
        return results

    monkeypatch.setattr(backend, 'sm_count', lambda device: 132)
    return compile_for


def step(shape, layout=torch.channels_last, dtype=torch.bfloat16, training=True, residual=True, relu=True):
    tensors, _ = tensors_of(draw(shape), layout, dtype)
    shortcut, dy = tensors['x'] if residual else None, tensors.pop('dy')
    _, saved = backend.forward(
        **tensors, training=training, momentum=0.1, eps=1e-5, relu=relu, residual=shortcut,
        num_batches_tracked=torch.tensor(0))
    weight, bias, gate_weight = (tensors[k] for k in ('weight', 'bias', 'gate_weight'))
    needs = Needs(*(True,) * 5, residual=residual)
    backend.backward(dy, tensors['x'], saved, weight, bias, gate_weight, training, 1e-5, relu, needs)


def resources(kernel, path):
    """Registers a thread, and bytes a thread of stack and of local memory, where spilled registers are."""
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not tool.exists():  # Triton has brought it so far
        pytest.skip('Triton brought no cuobjdump, which knows what a kernel takes')
    path.write_bytes(kernel.asm['cubin'])
    text = subprocess.run([tool, '-res-usage', path], capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf'{name}:(\d+)', text)[1]) for name in ('REG', 'STACK', 'LOCAL'))


@pytest.mark.parametrize('capability', [75, 80, 90, 100, 120])
def test_every_kernel_for_every_gpu(compiled, tmp_path, capability):
    """What ends a block in training and, by running statistics, its sums: no spills, and four programs fit an SM."""
    kernels = compiled(capability)
    step((1, 64, 64, 48))
    x, *parameters = torch.zeros(1, 64, 64, 48).bfloat16(), *torch.ones(6, 64)
    backend.forward(x.to(memory_format=torch.channels_last), *parameters, False, 0.0, 1e-5, True)
    assert set(kernels) == KERNELS
    for name, found in kernels.items():
        for kernel in found:
            registers, *spilled = resources(kernel, tmp_path / 'kernel.cubin')
            assert registers <= 128 and not any(spilled), (name, registers, spilled)


@layouts
def test_vector_loads(compiled, layout):
    """Kernels over all of x load and store 16 bytes at a time; new sizes compile nothing."""
    kernels, first = compiled(90), None
    for shape in [(2, 64, 48, 48), (1, 64, 48, 48), (3, 64, 64, 40), (2, 80, 48, 56)]:
        step(shape, layout, torch.float16)
        step(shape, layout, torch.float16, training=False)
        first = first or {name: len(found) for name, found in kernels.items()}
        assert first == {name: len(found) for name, found in kernels.items()}, shape
    assert set(kernels) == KERNELS
    assert all('ld.global.v4' in kernel.asm['ptx'] for found in kernels.values() for kernel in found)
    writers = kernels['normalize'] + kernels['input_gradient'] + kernels['gradient_sums']
    assert all('st.global.v4' in kernel.asm['ptx'] for kernel in writers)


def test_kernels_of_resnet50(compiled):
    """A training step of the channels_last network compiles 7 kernels, each for all of its norms."""
    kernels = compiled(90)
    for width, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        step((1, width, 2 * size, 2 * size), residual=False)
        step((1, width, size, size), residual=False)
        step((1, 4 * width, size, size))
    assert {name: len(found) for name, found in kernels.items()} == {
        'instance_statistics': 1, 'normalize': 2, 'gradient_sums': 2, 'input_gradient': 2}


def test_partial_results_are_read_past_the_first_cache(compiled):
    """Behind the atomic that acquires them, which stands behind a barrier that puts all stores before it."""
    kernels = compiled(90)
    step((2, 64, 16, 16))
    for name in ('instance_statistics', 'gradient_sums'):
        ptx = kernels[name][0].asm['ptx']
        before, acquire, behind = re.split(r'(atom\.global\S*)', ptx, maxsplit=1)
        assert '.acq_rel' in acquire and '.gpu' in acquire, name
        assert 'bar.sync' in before[before.rindex('st.global'):], name
        table = before.index('st.global')  # all that is loaded behind the partial results are partial results
        assert 'ld.global.cg' in behind and 'ld.global' not in before[table:], name
