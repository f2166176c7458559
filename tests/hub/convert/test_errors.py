"""What cannot be converted is refused by a short message and an exit code, and leaves no trace."""
import argparse
import json
import os
import shutil

import pytest
import timm
import torch

from tests.support.hub.converting import CONVERTED, KWARGS, bn_network, convert, iebn_network, leftovers, saved

HOSTILE = {
    'labels_5': {'label_names': 5},
    'labels_abc': {'label_names': 'abc'},  # three letters for three classes
    'labels_int': {'label_names': [0, 1, 2]},
    'size_x': {'data_config': {'input_size': 'x'}},
    'size_huge': {'data_config': {'input_size': [3, 10**6, 10**6]}},
    'size_grey': {'data_config': {'input_size': [1, 32, 32]}},
    'mean_x': {'data_config': {'input_size': [3, 32, 32], 'mean': 'x'}},
    'mean_two': {'data_config': {'input_size': [3, 32, 32], 'mean': [0.5, 0.5]}},
    'flag_mean': {'args': argparse.Namespace(mean='x')},
    'flag_size': {'args': argparse.Namespace(img_size='q')},
    'resize_foo': {'data_config': {'input_size': [3, 32, 32], 'interpolation': 'foo'}},
    'flag_resize': {'args': argparse.Namespace(interpolation='foo')},
    'args_int': {'model_args': {5: 1}},
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Checkpoints, good and bad, by name."""
    folder = tmp_path_factory.mktemp('files')
    bn = saved(bn_network(), folder / 'bn.pth')
    state = bn_network().state_dict()
    saved(iebn_network(), folder / 'iebn.pth')
    mixed = iebn_network().state_dict()
    for key in [k for k in mixed if k.startswith('layer3.0.bn1.')]:
        del mixed[key]
    mixed.update({k: v for k, v in state.items() if k.startswith('layer3.0.bn1.')})
    torch.save(mixed, folder / 'mixed.pth')
    torch.save({**state, 'fc.bias': torch.tensor([0., float('nan'), 0.])}, folder / 'nan.pth')
    torch.save(dict(epoch=3, arch='resnet18'), folder / 'no_weights.pth')
    torch.save({1: torch.ones(2)}, folder / 'int.pth')
    torch.save({'state_dict': {1: torch.ones(2)}}, folder / 'int_within.pth')
    torch.save({**state, 'conv1.weight': state['conv1.weight'].to_sparse()}, folder / 'sparse.pth')
    torch.save({**state, 'fc.bias': state['fc.bias'].to(torch.complex64)}, folder / 'complex.pth')
    torch.save({**state, 'fc.bias': state['fc.bias'].to('meta')}, folder / 'meta.pth')
    for name, more in HOSTILE.items():
        torch.save({'state_dict': state, 'arch': 'resnet18', **more}, folder / f'{name}.pth')
    torch.save([1, 2], folder / 'list.pth')
    torch.save({'weights': print}, folder / 'code.pth')
    (folder / 'damaged.pth').write_bytes(bn.read_bytes()[:3000])
    (folder / 'damaged.safetensors').write_bytes(b'\0x' * 50)
    return folder


@pytest.mark.parametrize('argv, code, named', [
    ([], 2, 'no --model given'),
    (['--model', 'resnet18'], 2, '--model resnet18 alone has random weights'),
    (['--model', 'resnet9000', '--pretrained'], 2, "unknown model 'resnet9000'"),
    (['--model', 'resnet9000', '--checkpoint', 'bn.pth'], 2, "unknown model 'resnet9000'"),
    (['--model', 'local-dir:nowhere'], 2, 'no config.json in nowhere'),
    (['--checkpoint', 'nothing.pth', '--model', 'resnet18'], 2, 'no checkpoint at nothing.pth'),
    (['--checkpoint', 'bn.pth'], 2, 'Name their architecture with --model'),
    (['--checkpoint', 'bn.pth', '--model', 'hf-hub:me/net'], 2, '--model hf-hub:me/net has weights of its own'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--pretrained'], 2, '--pretrained has weights of its own'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--use-ema'], 2, 'bn.pth has no EMA weights'),
    (['--checkpoint', 'damaged.pth', '--model', 'resnet18'], 1, 'damaged or no checkpoint'),
    (['--checkpoint', 'damaged.safetensors', '--model', 'resnet18'], 1, 'damaged or no checkpoint'),
    (['--checkpoint', 'code.pth', '--model', 'resnet18'], 1, 'was refused because it holds code'),
    (['--checkpoint', 'list.pth', '--model', 'resnet18'], 1, 'list.pth holds a list'),
    (['--checkpoint', 'no_weights.pth'], 1, "has 'epoch', a int"),
    (['--checkpoint', 'int.pth', '--model', 'resnet18'], 1, 'has 1, a Tensor, under a int'),
    (['--checkpoint', 'int_within.pth', '--model', 'resnet18'], 1, 'has 1, a Tensor, under a int'),
    (['--checkpoint', 'sparse.pth', '--model', 'resnet18', *KWARGS], 1, 'conv1.weight is a sparse_coo tensor'),
    (['--checkpoint', 'complex.pth', '--model', 'resnet18', *KWARGS], 1, 'fc.bias is a complex64 tensor'),
    (['--checkpoint', 'meta.pth', '--model', 'resnet18', *KWARGS], 1, 'fc.bias is a meta tensor'),
    (['--checkpoint', 'labels_5.pth', *KWARGS], 1, 'has label_names 5'),
    (['--checkpoint', 'labels_abc.pth', *KWARGS], 1, "has label_names 'abc'"),
    (['--checkpoint', 'labels_int.pth', *KWARGS], 1, 'has label_names [0, 1, 2]'),
    (['--checkpoint', 'size_x.pth', *KWARGS], 1, "data_config has input_size 'x'"),
    (['--checkpoint', 'size_huge.pth', *KWARGS], 1, 'data_config has input_size [3, 1000000, 1000000]'),
    (['--checkpoint', 'size_grey.pth', *KWARGS], 1, 'has input_size [1, 32, 32] for a network of 3 input channels'),
    (['--checkpoint', 'mean_x.pth', *KWARGS], 1, "data_config has mean 'x'"),
    (['--checkpoint', 'mean_two.pth', *KWARGS], 1, 'has mean [0.5, 0.5] for a network of 3 input channels'),
    (['--checkpoint', 'flag_mean.pth', *KWARGS], 1, "args has mean 'x'"),
    (['--checkpoint', 'flag_size.pth', *KWARGS], 1, "args has img_size 'q'"),
    (['--checkpoint', 'resize_foo.pth', *KWARGS], 1, "data_config has interpolation 'foo'.\nExpected one of nearest, "),
    (['--checkpoint', 'flag_resize.pth', *KWARGS], 1, "args has interpolation 'foo'.\nExpected one of nearest, "),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--interpolation', 'random', *KWARGS], 2,
     '--interpolation is random, expected nearest or '),
    (['--checkpoint', 'iebn.pth', '--model', 'iebn_resnet18', '--to-bn', '--img-size', '4097', *KWARGS], 2,
     '--img-size is 4097, expected '),
    (['--checkpoint', 'args_int.pth', *KWARGS], 1, 'model_args is {5: 1}'),
    (['--checkpoint', 'nan.pth', '--model', 'resnet18', *KWARGS], 1, 'fc.bias has NaN'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18'], 1, 'of another model'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--model-kwargs', 'depth=3'], 2,
     "sets 'depth', which is no argument"),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--num-classes', '7', *KWARGS], 2,
     '--num-classes is 7, but bn.pth has 3'),
    (['--checkpoint', 'bn.pth', '--model', 'iebn_resnet18', *KWARGS], 2, 'bn.pth has no gates'),
    (['--checkpoint', 'iebn.pth', '--model', 'resnet18', *KWARGS], 2, 'iebn.pth has gates'),
    (['--checkpoint', 'mixed.pth', '--model', 'iebn_resnet18', *KWARGS], 2, 'neither of a BN nor of an IEBN network'),
    (['--checkpoint', 'iebn.pth', '--model', 'iebn_resnet18', *KWARGS], 2, 'is an IEBN network already'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--to-bn', *KWARGS], 2, 'bn.pth has no IEBN layer'),
    (['--checkpoint', 'iebn.pth', '--model', 'iebn_resnet18', '--to-bn', *KWARGS], 2, 'depend on their input'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--to-bn', '--gate-shortcuts'], 2, 'Leave it out'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--fold'], 2, 'no --data-dir given'),
    (['--checkpoint', 'bn.pth', '--model', 'resnet18', '--data-dir', 'x'], 2, 'are for --fold'),
    (['--model', 'resnet18', '--license', 'MIT license'], 2, "--license is 'MIT license'"),
    (['--model', 'resnet18', '--base-model', 'a b'], 2, "--base-model is 'a b'"),
    (['--model', 'resnet18', '--repo-id', "it's"], 2, 'OWNER/NAME'),
])
def test_a_mistake_is_a_short_message(files, tmp_path, capsys, monkeypatch, argv, code, named):
    monkeypatch.chdir(files)
    got, _, err = convert(capsys, *argv, '--output', tmp_path / 'made' / 'out')
    assert (got, named in err) == (code, True), err
    assert err.startswith('error: ') and len(err.strip().splitlines()) <= 3 and 'Traceback' not in err
    assert leftovers(tmp_path / 'made') == []


@pytest.mark.parametrize('name, kwargs, named', [
    ('test_vit', {}, 'test_vit has no BatchNorm2d'),
    ('test_efficientnet', {}, 'iebn_zoo.convert_bn_to_iebn(model)'),
    ('se_resnet20_cifar', dict(layers=[1, 1, 1]), 'se_resnet20_cifar has no registered IEBN variant'),
])
def test_architectures_without_an_iebn_variant(tmp_path, capsys, name, kwargs, named):
    path = saved(timm.create_model(name, **kwargs), tmp_path / 'x.pth')
    argv = ['--model-kwargs', *(f'{k}={v}'.replace(' ', '') for k, v in kwargs.items())] if kwargs else []
    code, _, err = convert(capsys, '--model', name, '--checkpoint', path, '--output', tmp_path / 'out', *argv)
    assert code == 2 and named in err and leftovers(tmp_path) == ['x.pth']


def test_two_kinds_at_once(capsys):
    with pytest.raises(SystemExit) as caught:
        convert(capsys, '--to-bn', '--fold', '--output', 'x')
    assert caught.value.code == 2 and 'not allowed with' in capsys.readouterr().err


def test_arguments_without_a_value(capsys):
    with pytest.raises(SystemExit) as caught:
        convert(capsys, '--model', 'resnet18', '--checkpoint', 'x', '--output', 'x', '--model-kwargs', 'layers')
    assert caught.value.code == 2 and '--model-kwargs layers: expected KEY=VALUE' in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        convert(capsys, '--help')
    out = capsys.readouterr().out
    assert caught.value.code == 0 and '--to-bn' in out and '--fold --dataset torch/cifar100' in out


def test_an_existing_directory_survives(files, tmp_path, capsys, monkeypatch):
    from iebn_zoo.hub.package.check import check_directory
    from iebn_zoo.util.errors import IEBNZooError
    monkeypatch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)
    output = tmp_path / 'out'
    argv = ['--model', 'resnet18', '--checkpoint', files / 'bn.pth', '--img-size', 32, *KWARGS, '--output', output]
    assert convert(capsys, *argv)[0] == 0
    before = {name: (output / name).read_bytes() for name in CONVERTED}

    def unchanged():
        return {name: (output / name).read_bytes() for name in os.listdir(output)} == before

    code, _, err = convert(capsys, *argv)
    assert code == 2 and f'{output} exists' in err and '--overwrite' in err and unchanged()

    def broken(made):
        raise IEBNZooError('it does not load back')

    with monkeypatch.context() as patch:
        patch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', broken)
        code, _, err = convert(capsys, *argv, '--overwrite')
    assert code == 1 and 'does not load back' in err and unchanged() and leftovers(tmp_path) == ['out']
    clone = shutil.copytree(output, tmp_path / 'clone')
    (clone / 'notes.txt').write_text('mine')
    code, _, err = convert(capsys, *argv[:-1], clone, '--overwrite')
    assert code == 2 and 'notes.txt, which no export made' in err and (clone / 'notes.txt').is_file()
    assert convert(capsys, *argv, '--overwrite', '--license', 'mit')[0] == 0
    assert json.loads((output / 'config.json').read_text())['pretrained_cfg']['license'] == 'mit'


def test_a_conversion_that_computes_something_else_is_an_error(files, tmp_path, capsys, monkeypatch):
    from iebn_zoo.hub.convert import convert as module
    real = module.convert_bn_to_iebn

    def wrong(model, **kwargs):
        model, report = real(model, **kwargs)
        with torch.no_grad():
            model.get_parameter('layer2.0.bn2.weight').mul_(1.01)
        return model, report

    monkeypatch.setattr(module, 'convert_bn_to_iebn', wrong)
    code, _, err = convert(capsys, '--model', 'resnet18', '--checkpoint', files / 'bn.pth', '--img-size', 32, *KWARGS,
                           '--output', tmp_path / 'out')
    assert code == 1 and 'does not compute what bn.pth does' in err and leftovers(tmp_path) == []
