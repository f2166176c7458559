"""The table of the ImageNet family against the entrypoints of the installed timm."""
import pytest
import timm
import timm.models.resnet as timm_resnet
from timm.models import get_pretrained_cfg

from iebn_zoo.models import pretrained
from iebn_zoo.models.imagenet_table import NETWORKS

# arguments that make a block something other than conv-BN-ReLU: attention (SE, ECA, SK, CBAM...), another norm
FOREIGN = {'block_args', 'norm_layer', 'pruned'}


@pytest.fixture
def timms(monkeypatch):
    """Arguments of each plain-BN entrypoint of timm.models.resnet."""
    monkeypatch.setattr(timm_resnet, '_create_resnet', lambda variant, pretrained=False, **kwargs: (variant, kwargs))
    found = {}
    for name in timm.list_models(module='resnet'):
        made = timm.model_entrypoint(name)()
        if isinstance(made, tuple) and not name.startswith('test_'):
            variant, args = made
            assert variant == name
            if args['block'] in (timm_resnet.BasicBlock, timm_resnet.Bottleneck) and not FOREIGN & args.keys():
                found[name] = args
    return found


def differences(ours, theirs):
    """One line for each argument in which a row and timm's entrypoint differ, and for each name that only timm has."""
    lines = [f'{name}: timm has it, imagenet_table.NETWORKS does not: {theirs[name]}'
             for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        lines += [f'{name}: {key} is {ours[name].get(key)!r} in imagenet_table.NETWORKS, {theirs[name].get(key)!r} in '
                  f'timm {timm.__version__}' for key in sorted(ours[name].keys() | theirs[name].keys())
                  if ours[name].get(key) != theirs[name].get(key)]
    return sorted(lines)


def test_every_row_is_timms_entrypoint(timms):
    assert len(NETWORKS) == 41 and len(timms) >= 41
    found = differences(NETWORKS, timms)
    assert not found, '\n'.join(found)


def test_the_comparison_names_what_differs(timms):
    wrong = {**NETWORKS, 'resnet18d': dict(NETWORKS['resnet18d'], layers=(2, 2, 2, 1)),
             'resnet26t': NETWORKS['resnet26']}
    del wrong['resnet34']
    found = '\n'.join(differences(wrong, timms))
    assert len(found.splitlines()) == 5
    assert 'resnet18d: layers is (2, 2, 2, 1) in imagenet_table.NETWORKS, (2, 2, 2, 2) in timm' in found
    assert 'resnet26t: avg_down is None in imagenet_table.NETWORKS, True in timm' in found
    assert 'resnet34: timm has it, imagenet_table.NETWORKS does not' in found


def test_a_name_that_timm_lacks_has_no_weights():
    assert get_pretrained_cfg('resnet999') is None
    cfgs = pretrained.pretrained_cfgs('iebn_resnet999', 'resnet999')
    assert list(cfgs) == ['iebn_resnet999']
    cfg = cfgs['iebn_resnet999']
    assert not cfg.has_weights and (cfg.num_classes, cfg.input_size) == (1000, (3, 224, 224))
    assert cfg.classifier == 'fc' and cfg.paper_ids == 'arXiv:1908.04008'
