"""Peak memory where the answer is known."""
import pytest
import torch

from iebn_zoo.studies.benchmark.memory import peak_growth, resident_bytes
from iebn_zoo.studies.benchmark.settings import Setting
from iebn_zoo.studies.benchmark.steps import LayerStep, ModelStep

CPU = torch.device('cpu')
UNIT = 2 ** 20  # of bytes: a multiple of what GPU allocators round to
gpu = pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'))


@pytest.mark.parametrize('device', ['cpu', gpu])
def test_chain_of_known_tensors(device):
    device = torch.device(device)
    before = torch.ones(5 * UNIT, dtype=torch.uint8, device=device)

    def chain():
        a = before[:UNIT].clone()                                            # 1
        b = torch.empty(3 * UNIT, dtype=torch.uint8, device=device)          # 4
        del a                                                                # 3
        c = before[:2 * UNIT].clone()                                        # 5
        del b, c                                                             # 0
        d = torch.empty(4 * UNIT, dtype=torch.uint8, device=device)          # 4
        d[:UNIT].zero_()                                                     # in place

    assert peak_growth(chain, device) == 5 * UNIT
    assert peak_growth(before.zero_, device) == 0


def test_views_and_shared_storage_count_once():
    x = torch.zeros(6, 4)
    assert resident_bytes([x, x[1:], x.view(-1), torch.zeros(3)]) == 6 * 4 * 4 + 3 * 4


def test_what_autograd_saves():
    """exp saves its output: three of them hold three tensors, and each step back has a gradient that comes and one
    that goes."""
    x = torch.zeros(UNIT // 4, requires_grad=True)
    dy = torch.zeros(UNIT // 4)

    def step():
        torch.autograd.grad(x.exp().exp().exp(), x, dy)

    assert peak_growth(step, CPU) == 5 * UNIT


def test_layer():
    shape, size = (4, 8, 64, 64), 4 * 8 * 64 * 64 * 4
    step = LayerStep('bn', shape, Setting(), 'infer', CPU)
    assert resident_bytes(step.resident()) == size + 4 * 8 * 4 + 8  # x; weight, bias, mean, var; num_batches_tracked
    assert size <= peak_growth(step, CPU) < 1.02 * size  # y
    assert size / 2 <= peak_growth(LayerStep('bn', shape, Setting('bfloat16'), 'infer', CPU), CPU) < 0.52 * size
    step = LayerStep('naive', shape, Setting(), 'train', CPU)
    assert resident_bytes(step.resident()) == 2 * size + 6 * 8 * 4 + 8  # x, dy
    assert peak_growth(step, CPU) > 2.5 * size  # y, dx, and what autograd saves of the formula


def test_training_step_of_a_model_frees_what_it_takes():
    step = ModelStep('bn', 'resnet20_cifar', (2, 3, 8, 8), Setting(), 'train', CPU)
    parameters = sum(p.numel() * 4 for p in step.model.parameters())
    step()
    resident = resident_bytes(step.resident())
    growth = peak_growth(step, CPU)
    assert growth > parameters  # gradients at least
    assert resident > 2 * parameters  # weights and momentum
    for _ in range(2):
        assert peak_growth(step, CPU) == growth
    assert resident_bytes(step.resident()) == resident
