"""timm's BN checkpoints as tags: which there are, in which order, and what their cfgs say."""
import dataclasses

import pytest
import timm
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

from iebn_zoo.models import pretrained
from tests.models.test_registry import IMAGENET

# what is ours; every other field is timm's
OWN = {'architecture', 'tag', 'notes', 'paper_ids', 'origin_url'}
WITHOUT_WEIGHTS = [f'iebn_{name}' for name in (
    'resnet50t', 'resnet200', 'resnetaa34d', 'resnetblur18', 'resnetblur50d', 'resnetblur101d')]


def bn_tags(name):
    cfgs = get_arch_pretrained_cfgs(name.removeprefix('iebn_'))
    return [key.split('.', 1)[1] for key, cfg in cfgs.items() if cfg.has_weights]


@pytest.mark.parametrize('name', IMAGENET)
def test_a_tag_for_each_of_timms_checkpoints(name):
    tags = bn_tags(name)
    assert bool(tags) == (name not in WITHOUT_WEIGHTS)
    cfgs = get_arch_pretrained_cfgs(name)
    assert list(cfgs) == ([f'{name}.bn_{tag}' for tag in tags] or [name])  # timm's order, hence timm's default
    assert timm.is_model_pretrained(name) == bool(tags)
    if tags:
        assert get_pretrained_cfg(name) == cfgs[f'{name}.bn_{tags[0]}']
        assert get_pretrained_cfg(name.removeprefix('iebn_')).tag == tags[0]


@pytest.mark.parametrize('name', [name for name in IMAGENET if name not in WITHOUT_WEIGHTS])
def test_cfg_is_that_of_the_bn_checkpoint(name):
    base = name.removeprefix('iebn_')
    for tag in bn_tags(name):
        theirs = dataclasses.asdict(get_pretrained_cfg(f'{base}.{tag}'))
        ours = dataclasses.asdict(get_pretrained_cfg(f'{name}.bn_{tag}'))
        assert {k: v for k, v in ours.items() if k not in OWN} == {k: v for k, v in theirs.items() if k not in OWN}
        assert ours['hf_hub_id'] == f'timm/{base}.{tag}'
        assert (ours['architecture'], ours['tag']) == (name, f'bn_{tag}')
        papers = theirs['paper_ids']
        assert ours['paper_ids'] == ((papers,) if papers else ()) + ('arXiv:1908.04008',)
        assert ours['origin_url'] == (theirs['origin_url'] or f'https://huggingface.co/timm/{base}.{tag}')
        assert 'BN-trained' in ours['notes'][0] and f'{base}.{tag},' in ours['notes'][0]
        assert 'not trained with IEBN' in ours['notes'][0]


def test_lists():
    listed = [name for name in timm.list_pretrained('iebn_*') if '_cifar.' not in name]
    assert sorted(listed) == sorted(f'{name}.bn_{tag}' for name in IMAGENET for tag in bn_tags(name))
    assert len(listed) >= 100
    assert 'iebn_resnet50.bn_a1_in1k' in listed and 'iebn_resnext101_32x16d.bn_fb_ssl_yfcc100m_ft_in1k' in listed
    assert not [name for name in listed if 'untrained' in name]
    assert timm.list_pretrained('iebn_resnet26') == ['iebn_resnet26.bn_bt_in1k']


def test_known_cfgs():
    assert get_pretrained_cfg('iebn_resnet50').tag == 'bn_a1_in1k'
    assert get_pretrained_cfg('iebn_resnext101_32x16d').license == 'cc-by-nc-4.0'
    assert get_pretrained_cfg('iebn_resnet18.bn_tv_in1k').license == 'bsd-3-clause'
    if timm.is_model_pretrained('resnet50.bamboo'):  # timm 1.0.30 does not have it yet
        assert get_pretrained_cfg('iebn_resnet50.bn_bamboo').num_classes == 0
    assert get_pretrained_cfg('iebn_resnetaa50d.bn_d_in12k').num_classes == 11821
    assert get_pretrained_cfg('iebn_resnet50.bn_a3_in1k').input_size == (3, 160, 160)
    with pytest.raises(RuntimeError, match='Invalid pretrained tag'):
        get_pretrained_cfg('iebn_resnet50.a1_in1k')


@pytest.mark.parametrize('name', WITHOUT_WEIGHTS)
def test_model_without_weights(name):
    cfg = get_pretrained_cfg(name)
    assert not cfg.has_weights and cfg.tag is None and cfg.notes is None and cfg.architecture == name
    assert cfg.num_classes == 1000 and cfg.paper_ids == 'arXiv:1908.04008'
    with pytest.raises(RuntimeError, match=f'No pretrained weights exist for {name}'):
        timm.create_model(name, pretrained=True, device='meta')


def test_weights_that_no_filter_reaches_are_left_out(monkeypatch):
    bn = {f'resnet18.{cfg.tag}': cfg for cfg in (
        get_pretrained_cfg('resnet18.a1_in1k'),
        dataclasses.replace(get_pretrained_cfg('resnet18.a2_in1k'), custom_load=True),
        dataclasses.replace(get_pretrained_cfg('resnet18.a3_in1k'), hf_hub_id=None, origin_url=None))}
    monkeypatch.setattr(pretrained, 'get_arch_pretrained_cfgs', lambda name: bn)
    cfgs = pretrained.pretrained_cfgs('iebn_resnet18', 'resnet18')
    assert list(cfgs) == ['iebn_resnet18.bn_a1_in1k', 'iebn_resnet18.bn_a3_in1k']
    assert cfgs['iebn_resnet18.bn_a3_in1k'].origin_url == bn['resnet18.a3_in1k'].url
