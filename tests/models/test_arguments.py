"""What create_model takes: classes, channels, pooling, drop rates, output stride, device, dtype."""
import pytest
import timm
import torch
from timm.layers import DropBlock2d, DropPath
from torch import nn

from tests.models.test_registry import CIFAR
from tests.support.models.cases import ALL, CONTROLS, IEBN_CIFAR, IMAGENET, ids
from tests.support.versions import OLD_TIMM

cases = pytest.mark.parametrize('case', ALL, ids=ids)
cifar_cases = pytest.mark.parametrize('case', IEBN_CIFAR + CONTROLS, ids=ids)


@cases
def test_classes_and_channels(case):
    model = case.create(num_classes=7, in_chans=1).eval()
    assert model(case.input(chans=1)).shape == (2, 7)
    assert (model.num_classes, model.in_chans) == (7, 1)
    assert [m for m in model.modules() if isinstance(m, nn.Conv2d)][0].in_channels == 1


@cases
def test_global_pool(case):
    x = case.input()
    maps = case.create(num_classes=0, global_pool='').eval()(x)
    side = case.size // case.reductions[-1]
    width = case.create(device='meta').num_features
    assert maps.shape == (2, width, side, side)
    pooled = {'avg': maps.mean((2, 3)), 'max': maps.amax((2, 3))}
    pooled['avgmax'] = (pooled['avg'] + pooled['max']) / 2
    pooled['catavgmax'] = torch.cat([pooled['avg'], pooled['max']], 1)
    for name, expected in pooled.items():
        torch.testing.assert_close(case.create(num_classes=0, global_pool=name).eval()(x), expected)
        head = case.create(num_classes=3, global_pool=name, device='meta')
        assert head.fc.in_features == expected.shape[1]
        assert OLD_TIMM or head.head_hidden_size == expected.shape[1]


@cases
def test_drop_rates(case):
    model = case.create(drop_rate=0.5, drop_path_rate=0.2)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    blocks = sum(len(stage) for name, stage in model.named_children() if name.startswith('layer'))
    assert rates == pytest.approx([0.2 * i / (blocks - 1) for i in range(1, blocks)])
    assert model.drop_rate == 0.5
    x = case.input()
    assert torch.equal(model.eval()(x), model(x))
    torch.testing.assert_close(model(x), case.create().eval()(x))
    model.train()
    torch.manual_seed(0)
    first = model(x)
    assert not torch.equal(first, model(x))
    features = torch.ones(2, model.num_features, 2, 2)
    assert 0.2 < (model.forward_head(features, pre_logits=True) == 0).float().mean() < 0.8


@cifar_cases
def test_drop_block(case):
    model = case.create(drop_block_rate=0.3).train()
    assert any(isinstance(m, DropBlock2d) for m in model.layer3.modules())
    model(case.input()).sum().backward()


@pytest.mark.parametrize('net', ['wrn16_8', 'wrn28_10'])
def test_dropout_inside_wide_blocks(net):
    model = timm.create_model(f'iebn_{net}_cifar', layers=(1, 1, 1), block_args={'conv_drop_rate': 0.3}, device='meta')
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3] * 3


@cases
def test_output_stride(case):
    x = case.input()
    for stride in case.strides:
        model = case.create(output_stride=stride).eval()
        assert model.forward_features(x).shape[2:] == (case.size // stride,) * 2
        assert model(x).shape == (2, 5)
        assert model.feature_info[-1]['reduction'] == stride
        assert max(m.dilation[0] for m in model.modules() if isinstance(m, nn.Conv2d)) in (
            case.strides[0] // stride, max(1, case.strides[0] // stride // 2))


@pytest.mark.parametrize('stride', [0, 3, 8, 32])
@pytest.mark.parametrize('name', ['iebn_resnet20_cifar', 'bn_wrn28_10_cifar'])
def test_impossible_output_stride(name, stride):
    with pytest.raises(ValueError, match=f'output_stride.*1, 2 or 4.*{stride}'):
        timm.create_model(name, output_stride=stride, device='meta')


@pytest.mark.parametrize('case', IMAGENET[:1] + IEBN_CIFAR, ids=ids)
def test_device_and_dtype(case):
    assert all(t.is_meta for t in case.create(device='meta').state_dict().values())
    model = timm.create_model(case.name, **case.kwargs, dtype=torch.float64).eval()
    assert {t.dtype for k, t in model.state_dict().items() if 'tracked' not in k} == {torch.float64}
    assert model(case.input().double()).dtype == torch.float64


@pytest.mark.parametrize('name', ['iebn_resnet20_cifar', 'iebn_resnet164_cifar', 'iebn_preresnet164_cifar',
                                  'iebn_wrn16_8_cifar', 'iebn_resnet18'])
def test_an_activation_by_name(name):
    by_name, by_class, default = (timm.create_model(name, device='meta', **kwargs) for kwargs in (
        {'act_layer': 'silu'}, {'act_layer': nn.SiLU}, {}))
    kinds = [[type(m) for m in model.modules()] for model in (by_name, by_class)]
    assert kinds[0] == kinds[1] and nn.SiLU in kinds[0] and nn.ReLU not in kinds[0]
    assert repr(timm.create_model(name, device='meta', act_layer='relu')) == repr(default)


@cases
def test_channels_last(case):
    model, x = case.create().eval(), case.input()
    expected = model(x)
    actual = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', CIFAR)
def test_every_cifar_model_at_full_size(name):
    """Runs forward and backward, and starts as the reference does."""
    model = timm.create_model(name, num_classes=10).train()
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 4000 and m.groups == 1):
        if conv.bias is None:
            std = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
            assert conv.weight.std().item() == pytest.approx(std, rel=0.1)
    assert not any((m.weight == 0).any() for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.affine)
    logits = model(torch.randn(2, 3, 8, 8))
    assert logits.shape == (2, 10)
    logits.logsumexp(1).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize('size', [(4, 4), (5, 9), (32, 32), (48, 32)])
def test_any_image_size(size):
    for case in IEBN_CIFAR:
        assert case.create().eval()(torch.randn(1, 3, *size)).shape == (1, 5)
