"""What comes out of fold_gates, against the formula worked out by hand and against the original."""
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models.resnet import Bottleneck
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from iebn_zoo import IEBatchNorm2d, fold_gates
from tests.support.conversion.folded_networks import images, network, zoo_model


def by_hand(model, calibration, x):
    """The folded ``network()``: each gate averaged in the original, applied as a constant."""

    def gates(layer, y):
        logit = layer.gate_weight * y.flatten(2).sum(2) / y[0, 0].numel() + layer.gate_bias
        return 1 / (1 + torch.exp(-logit))

    def normalized(layer, y, gate):
        y = (y - layer.bn.running_mean[:, None, None]) / (layer.bn.running_var[:, None, None] + layer.bn.eps) ** 0.5
        return layer.weight[:, None, None] * gate[..., None, None] * y + layer.bias[:, None, None]

    conv1, norm1, _, conv2, norm2, _, _, linear = model
    y = conv1(calibration)
    gate1 = gates(norm1, y)
    gate2 = gates(norm2, conv2(F.relu(normalized(norm1, y, gate1))))
    x = F.relu(normalized(norm1, conv1(x), gate1.mean(0)))
    x = F.relu(normalized(norm2, conv2(x), gate2.mean(0)))
    return linear(x.mean((2, 3)))


def test_against_the_formula():
    model, calibration, x = network(), images(9).double(), images(4, seed=3).double()
    expected = by_hand(model, calibration, x)
    assert (expected - model(x)).abs().max() > 1e-2  # the gates do react
    folded, _ = fold_gates(model, calibration)
    torch.testing.assert_close(folded(x), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(fold_gates(model.float(), calibration)[0](x.float()).double(), expected,
                               atol=1e-5, rtol=1e-5)


def test_a_default_device_changes_nothing():
    model, calibration, held_out = network(), images(9), images(4, seed=3)
    expected, report = fold_gates(model, calibration, held_out)
    with torch.device('meta'):
        folded, again = fold_gates(model, calibration, held_out)
    assert str(again) == str(report)
    for key, value in expected.state_dict().items():
        assert torch.equal(folded.state_dict()[key], value)


def test_only_the_weight_changes():
    model = network()
    folded, _ = fold_gates(model, images(9))
    before, after = model.state_dict(), folded.state_dict()
    moved = {k.replace('.bn.', '.'): v for k, v in before.items() if 'gate' not in k}
    assert list(moved) == list(after)
    changed = [k for k, v in after.items() if not torch.equal(v, moved[k])]
    assert changed == ['1.weight', '4.weight']
    assert type(folded[1]) is nn.BatchNorm2d and type(folded[4]) is BatchNormAct2d
    assert (folded[1].eps, folded[4].eps) == (1e-3, 1e-5)


def test_exact_where_no_gate_depends_on_the_image():
    model = zoo_model('iebn_resnet164_cifar', gate_downsample=True)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, IEBatchNorm2d):
                layer.gate_weight.zero_()
    x = images(16)
    folded, report = fold_gates(model, images(3, seed=4), x)
    expected = model(x)
    assert (folded(x) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert report.agreement.top1 == 1.0 and report.agreement.same_top1 == report.agreement.images == 16
    assert max(gates.instance_spread for gates in report.layers) < 1e-15
    assert min(gates.channel_spread for gates in report.layers) > 0.1


def test_convolutions_take_the_folded_norms():
    folded, _ = fold_gates(zoo_model(), images(4))
    x = images(3, seed=5)
    expected = folded(x)
    for owner in list(folded.modules()):
        children = owner._modules
        for conv, norm in (('conv1', 'bn1'), ('conv2', 'bn2'), ('0', '1')):
            if isinstance(children.get(norm), nn.BatchNorm2d):
                children[conv] = fuse_conv_bn_eval(children[conv], children[norm])
                children[norm] = nn.Identity()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), expected, atol=1e-5, rtol=1e-5)


def test_original_stays_as_it_was():
    model = zoo_model('iebn_resnet18', channels=(8, 8, 8, 8)).train()
    model.layer1[0].bn1.bn.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags, hooks = [m.training for m in model.modules()], [len(m._forward_pre_hooks) for m in model.modules()]
    structure = repr(model)
    folded, _ = fold_gates(model, images(4, 32), images(2, 32))
    assert torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == flags and repr(model) == structure
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.layer1[0].norm_adds_shortcut and not folded.layer1[0].norm_adds_shortcut
    assert not any(m.training for m in folded.modules())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in folded.parameters()}
    assert model.pretrained_cfg['architecture'] == 'iebn_resnet18'


def test_fused_layers_have_the_gates_of_plain_ones():
    fused, plain = (zoo_model('iebn_resnet50', channels=(8, 8, 8, 8), fuse_act=f) for f in (True, False))
    assert fused.layer1[0].norm_adds_shortcut and type(plain.layer1[0]) is Bottleneck
    a, b = (fold_gates(m, images(5, 32))[0].state_dict() for m in (fused, plain))
    assert list(a) == list(b)
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], atol=1e-6, rtol=1e-5)
