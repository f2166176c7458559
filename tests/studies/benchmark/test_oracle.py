"""A wrong operator is refused, whatever is wrong with it."""
import pytest
import torch

from iebn_zoo.layers import iebn
from iebn_zoo.studies.benchmark.check.oracle import check_operator
from iebn_zoo.studies.benchmark.settings import parse
from iebn_zoo.util.errors import IEBNZooError

CPU = torch.device('cpu')
OPERATOR = iebn.ie_batch_norm
POSITIONS = {'dx': 0, 'd_weight': 3, 'd_bias': 4, 'd_gate_weight': 5, 'd_gate_bias': 6}


def check(*settings, modes=('train', 'infer')):
    return check_operator([parse(s) for s in settings], modes, CPU)


def wrong_gradient(quantity, factor):
    def operator(*args, **kwargs):
        args = list(args)
        i = POSITIONS[quantity]
        if args[i].requires_grad:
            args[i] = args[i].view_as(args[i])
            args[i].register_hook(lambda g: g * factor)
        return OPERATOR(*args, **kwargs)
    return operator


def wrong_statistic(index, factor):
    def operator(*args, **kwargs):
        y = OPERATOR(*args, **kwargs)
        args[index].mul_(factor)
        return y
    return operator


def test_ours_passes():
    # y, five gradients (six with a residual) and two statistics in training; y and two statistics in inference
    assert check('float32', 'bfloat16', 'channels_last', 'bfloat16+channels_last') == 4 * 6 * (8 + 8 + 9 + 3 * 3)


@pytest.mark.parametrize('setting', ['float32', 'bfloat16', 'float16+channels_last'])
@pytest.mark.parametrize('quantity', POSITIONS)
def test_one_percent_in_one_gradient(monkeypatch, quantity, setting):
    monkeypatch.setattr(iebn, 'ie_batch_norm', wrong_gradient(quantity, 1.01))
    with pytest.raises(IEBNZooError, match=rf'train, input .*: {quantity} is off by (1.0e-02|9..e-03) of its'):
        check(setting)
    assert check(setting, modes=['infer'])  # what is not timed does not matter


@pytest.mark.parametrize('quantity, index', [('running_mean', 1), ('running_var', 2)])
@pytest.mark.parametrize('mode', ['train', 'infer'])
def test_statistics(monkeypatch, quantity, index, mode):
    monkeypatch.setattr(iebn, 'ie_batch_norm', wrong_statistic(index, 1.001))
    with pytest.raises(IEBNZooError, match=rf'{mode}, input .*: {quantity} is off by 1.0e-03'):
        check('float32', modes=[mode])


@pytest.mark.parametrize('spoil, named', [
    (lambda y: y * 1.01, 'y is off by'),
    (lambda y: y.float(), 'y is torch.float32, expected torch.bfloat16'),
    (lambda y: y.index_fill(0, torch.tensor(0), float('nan')), 'y is off by nan'),
    (lambda y: torch.cat([y[..., :-1], -y[..., -1:]], -1), 'y is off by'),
], ids=['scaled', 'dtype', 'nan', 'tail'])
def test_output(monkeypatch, spoil, named):
    monkeypatch.setattr(iebn, 'ie_batch_norm', lambda *args, **kwargs: spoil(OPERATOR(*args, **kwargs)))
    for mode in ('train', 'infer'):
        with pytest.raises(IEBNZooError, match=named) as e:
            check('bfloat16', modes=[mode])
        assert len(str(e.value).splitlines()) <= 3 and 'IEBatchNorm2d, bfloat16' in str(e.value)


def test_wrong_only_with_the_fused_relu(monkeypatch):
    def operator(*args, relu=False, **kwargs):
        y = OPERATOR(*args, relu=relu, **kwargs)
        return torch.where(y > 1, 1.0, y) if relu else y

    monkeypatch.setattr(iebn, 'ie_batch_norm', operator)
    with pytest.raises(IEBNZooError, match='IEBatchNormAct2d, float32, train'):
        check('float32')


def test_wrong_only_with_a_residual(monkeypatch):
    def operator(*args, residual=None, **kwargs):
        if residual is not None:
            residual = residual.view_as(residual)
            if residual.requires_grad:
                residual.register_hook(lambda g: g * 0.98)
        return OPERATOR(*args, residual=residual, **kwargs)

    monkeypatch.setattr(iebn, 'ie_batch_norm', operator)
    with pytest.raises(IEBNZooError, match='IEBatchNormAct2d with residual, bfloat16, train.*: d_residual is off by'):
        check('bfloat16')


def test_compiled_layers_are_checked():
    import iebn_zoo.studies.benchmark.check.oracle as oracle
    setting = parse('compile', backend='aot_eager')
    assert oracle.check_operator([setting], ['infer'], CPU) == 3 * 3 * len(oracle.COMPILED_SHAPES)
