"""Every reader of weights gives one answer: the same network for every form of file, the same refusal for a bad one."""
import argparse
import os
import pickle
import struct

import pytest
import timm
import torch
from timm.utils.checkpoint_saver import CheckpointSaver
from torch import nn

from iebn_zoo.commands.hub.convert import build_parser
from iebn_zoo.hub.package.export import export
from iebn_zoo.hub.package.source import open_source
from iebn_zoo.models import load_reference_checkpoint
from iebn_zoo.training.run.checkpoint import load_checkpoint
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.file import CodeError, DamagedError, read_weights_file
from iebn_zoo.weights.open import open_network, start_network
from tests.support.weights.files import (
    ARCH,
    ARGS,
    DATA,
    FORMS,
    as_ours,
    as_safetensors,
    as_state_dict,
    as_timms,
    bn_network,
    checkpoint,
    iebn_network,
    refused,
    run,
    same_logits,
)


def by_validate(path):
    # the depth of the small network stands in no plain state dict: the user says it
    return open_network(ARCH, path, model_args={'layers': [1, 1, 1]}).model


def by_convert(path):
    args = build_parser().parse_args(['--model', ARCH, '--checkpoint', str(path), '--model-kwargs', 'layers=[1,1,1]',
                                      '--output', 'x'])
    return open_source(args).model


def by_train(path):
    return start_network(ARCH, False, ARGS, path)[0].eval()


def by_reference(path):
    return load_reference_checkpoint(timm.create_model(ARCH, **ARGS), path).eval()


READERS = [by_validate, by_convert, by_train, by_reference]
readers = pytest.mark.parametrize('read', READERS)


@readers
@pytest.mark.parametrize('form', FORMS)
def test_every_form_is_the_same_network(read, form, tmp_path):
    assert same_logits(read(form(checkpoint(), tmp_path)), iebn_network())


@pytest.mark.parametrize('form', FORMS)
def test_bn_weights_are_converted_or_named(form, tmp_path):
    content = checkpoint(state_dict=bn_network().state_dict(), arch='bn_resnet20_cifar')
    path = form(content, tmp_path)
    for read in (by_train, by_reference):
        assert same_logits(read(path), bn_network(), 1e-5)
    assert same_logits(open_network('bn_resnet20_cifar', path, model_args={'layers': [1, 1, 1]}).model, bn_network())
    with pytest.raises(UsageError, match='of bn_resnet20_cifar, not|has no gates'):
        by_convert(path)


@readers
@pytest.mark.parametrize('change', [
    lambda c: c.update(schema=99), lambda c: c['state_dict']['conv1.weight'].neg_(),
    lambda c: c.update(label_names=['cat', 'bee', 'ant']), lambda c: c['model_args'].update(start='paper'),
    lambda c: c.pop('checksum'), lambda c: c.update(checksum='0' * 64), lambda c: c.update(schema='1'),
    lambda c: c.pop('epoch'), lambda c: c.update(epoch=[[]] * 3)],
    ids=['schema', 'weights', 'labels', 'arguments', 'no checksum', 'checksum', 'text', 'no epoch', 'epoch'])
def test_schema_and_checksum_are_verified_by_every_reader(read, change, tmp_path):
    path = as_ours(checkpoint(), tmp_path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(IEBNZooError, match='does not have the checksum|has schema 99'):
        read(path)
    with pytest.raises(IEBNZooError):
        load_checkpoint(path)


@pytest.mark.parametrize('bit', [0, 7, 31])
def test_one_flipped_bit_in_the_file_stops_every_command(bit, tmp_path, image_folder, capsys):
    path = as_ours(checkpoint(), tmp_path)
    whole, place = path.read_bytes(), iebn_network().state_dict()['layer3.0.conv2.weight'].numpy().tobytes()
    at = whole.index(place) + 4 * 1000 + bit // 8
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit % 8)]) + whole[at + 1:])
    for argv in (['validate', '--checkpoint', path, '--data-dir', image_folder],
                 ['convert', '--checkpoint', path, '--to-bn', '--output', tmp_path / 'out'],
                 ['export', path, '--output', tmp_path / 'out'],
                 ['train', '--model', ARCH, '--model-kwargs', 'layers=[1,1,1]', '--data-dir', image_folder,
                  '--output', tmp_path / 'run', '--initial-checkpoint', path]):
        refused(run(capsys, *argv), 'damaged')
    assert not (tmp_path / 'out').exists()


def test_what_timms_saver_writes_is_read(tmp_path):
    model = timm.create_model(ARCH, **ARGS)
    args = argparse.Namespace(model=ARCH, model_kwargs={'layers': [1, 1, 1]}, mean=(0.5, 0.4, 0.3), std=None, gp=None,
                              interpolation='', img_size=None, crop_pct=None, opt='sgd', lr=0.1)
    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters(), 0.1), args=args, checkpoint_dir=str(tmp_path),
                            recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=50.)
    network = open_network(checkpoint=tmp_path / 'last.pth.tar')
    assert same_logits(network.model, model.eval()) and network.data_config['mean'] == [0.5, 0.4, 0.3]
    assert 'loaded iebn_resnet20_cifar from last.pth.tar' in network.description
    for read in (by_train, by_reference, by_convert):
        assert same_logits(read(tmp_path / 'last.pth.tar'), model)


def test_an_empty_interpolation_is_that_of_the_network(tmp_path):
    path = as_ours(checkpoint(data_config={**DATA, 'interpolation': ''}), tmp_path)
    assert open_network(checkpoint=path).data_config['interpolation'] == 'bilinear'


class _Code:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


class _Namespace(argparse.Namespace):
    pass


@readers
@pytest.mark.parametrize('save, named', [
    (torch.save, 'mkdir'), (lambda o, p: torch.save(o, p, _use_new_zipfile_serialization=False), 'mkdir'),
    (lambda o, p: p.write_bytes(pickle.dumps(o, 2)), '_load_from_bytes'),
    (lambda o, p: p.write_bytes(pickle.dumps(o, 4)), '_load_from_bytes')],
    ids=['zip', 'legacy', 'pickle 2', 'pickle 4'])
def test_code_is_refused_because_it_is_code(read, save, named, tmp_path):
    for content in ({**checkpoint(), 'extra': _Code(tmp_path / 'ran')},
                    {'state_dict': iebn_network().state_dict(), 'args': argparse.Namespace(x=_Code(tmp_path / 'ran'))}):
        save(content, tmp_path / 'x.pth')
        with pytest.raises(CodeError, match=f'was refused because it holds code.*{named}.*not run') as e:
            read(tmp_path / 'x.pth')
        assert len(str(e.value).splitlines()) <= 3 and 'weights_only' not in str(e.value)
    assert not (tmp_path / 'ran').exists()


@readers
@pytest.mark.parametrize('text', ['config: null\noutput: run\n', 'epoch,train_loss\n0,1.5\n', '{"a": 1}',
                                  'version https://git-lfs.github.com/spec/v1\n'])
def test_a_text_is_told_as_one(read, text, tmp_path):
    (tmp_path / 'args.yaml').write_text(text)
    with pytest.raises(DamagedError, match='args.yaml: it is a text file.\nExpected a file of weights') as e:
        read(tmp_path / 'args.yaml')
    assert not isinstance(e.value, CodeError)


@readers
def test_a_pickle_of_letters_is_no_text(read, tmp_path):
    (tmp_path / 'x.pth').write_bytes(pickle.dumps({'state_dict': _Code(tmp_path / 'ran')}, 0))
    with pytest.raises(DamagedError, match='damaged or no checkpoint'):
        read(tmp_path / 'x.pth')
    assert not (tmp_path / 'ran').exists()


@readers
def test_a_class_of_somebody_is_code_too(read, tmp_path):
    torch.save({'state_dict': iebn_network().state_dict(), 'args': _Namespace(a=1)}, tmp_path / 'x.pth')
    with pytest.raises(CodeError, match='_Namespace'):
        read(tmp_path / 'x.pth')
    torch.save(iebn_network(), tmp_path / 'x.pth')  # a whole module
    with pytest.raises(CodeError, match='holds code'):
        read(tmp_path / 'x.pth')


def without_gates(state):
    return {k: v for k, v in state.items() if 'gate' not in k}


@readers
@pytest.mark.parametrize('form', FORMS)
def test_an_iebn_network_without_its_gates_is_no_bn_network(read, form, tmp_path):
    path = form(checkpoint(state_dict=without_gates(iebn_network().state_dict())), tmp_path)
    with pytest.raises(IEBNZooError, match='no gates|have no gates') as e:
        read(path)
    assert len(str(e.value).splitlines()) <= 3


@readers
def test_the_reference_code_without_its_gates_is_no_bn_network(read, tmp_path):
    from tests.models.test_reference_checkpoint import load_fixture
    state = {k: v for k, v in load_fixture('reference_resnet20')[0].items() if 'readjust' not in k}
    assert len(state) < len(load_fixture('reference_resnet20')[0])
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    with pytest.raises(IEBNZooError):
        read(tmp_path / 'x.pth')


@readers
def test_one_norm_without_its_gates(read, tmp_path):
    state = iebn_network().state_dict()
    for name in ('layer2.0.bn2.gate_weight', 'layer2.0.bn2.gate_bias'):
        del state[name]
    with pytest.raises(IEBNZooError, match=r'layer2\.0\.bn2'):
        read(as_state_dict(checkpoint(state_dict=state), tmp_path))


def changed(name, change):
    state = {k: v.clone() for k, v in iebn_network().state_dict().items()}
    state[name] = change(state[name])
    return state


def _put(value):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor
    return change


@readers
@pytest.mark.parametrize('form', [as_ours, as_timms, as_state_dict, as_safetensors])
@pytest.mark.parametrize('name, change, named', [
    ('fc.bias', _put(float('nan')), 'fc.bias has NaN or infinite values'),
    ('conv1.weight', _put(float('inf')), 'conv1.weight has NaN or infinite values'),
    ('layer1.0.bn1.bn.running_mean', _put(float('-inf')), 'running_mean has NaN or infinite values'),
    ('layer1.0.bn1.bn.running_var', _put(-1e-9), 'running_var has negative values'),
    ('layer2.0.downsample.1.running_var', _put(-3.), 'running_var has negative values'),
    ('layer1.0.bn1.gate_weight', lambda t: t.to(torch.complex64), 'gate_weight is a complex64 tensor'),
    ('layer1.0.bn1.weight', lambda t: t.to(torch.int64), 'weight is a int64 tensor'),
    ('fc.weight', lambda t: t > 0, 'fc.weight is a bool tensor'),
    ('fc.weight', lambda t: t.double() * 1e300, 'fc.weight has values beyond the range of float32'),
], ids=lambda v: v if isinstance(v, str) else '')
def test_weights_that_no_network_has(read, form, name, change, named, tmp_path):
    path = form(checkpoint(state_dict=changed(name, change)), tmp_path)
    with pytest.raises(IEBNZooError) as e:
        read(path)
    assert named in str(e.value) and len(str(e.value).splitlines()) <= 3, e.value


@readers
def test_eight_bit_floats_are_compared_too(read, tmp_path):
    for change in (lambda t: (-t - 1).to(torch.float8_e4m3fn), lambda t: (-t - 1).to(torch.float8_e5m2)):
        state = changed('layer1.0.bn1.bn.running_var', change)
        with pytest.raises(IEBNZooError, match='running_var has negative values'):
            read(as_state_dict(checkpoint(state_dict=state), tmp_path))


def test_ema_weights_are_checked_too(tmp_path):
    path = as_ours(checkpoint(state_dict_ema=changed('fc.bias', _put(float('nan')))), tmp_path)
    assert same_logits(by_validate(path), iebn_network())
    with pytest.raises(IEBNZooError, match=r'fc\.bias has NaN'):
        open_network(checkpoint=path, use_ema=True)
    with pytest.raises(UsageError, match='no EMA weights'):
        open_network(checkpoint=as_ours(checkpoint(), tmp_path), use_ema=True)


@readers
@pytest.mark.parametrize('tensor, kind', [
    (lambda t: t.to_sparse(), 'sparse_coo'), (lambda t: t.to('meta'), 'meta'),
    (lambda t: torch.zeros(1).expand(10**7, 10**5), 'repeating')], ids=['sparse', 'meta', 'repeating'])
def test_tensors_that_are_not_in_the_file(read, tensor, kind, tmp_path):
    path = as_state_dict(checkpoint(state_dict=changed('fc.weight', tensor)), tmp_path)
    assert path.stat().st_size < 10**7
    with pytest.raises(IEBNZooError, match=f'fc.weight is a {kind} tensor'):
        read(path)


@readers
def test_half_precision_is_taken(read, tmp_path):
    state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in iebn_network().state_dict().items()}
    model = read(as_safetensors(checkpoint(state_dict=state), tmp_path))
    assert all(v.dtype in (torch.float32, torch.int64) for v in model.state_dict().values())
    assert same_logits(model, iebn_network(), 0.1) and not same_logits(model, iebn_network())


@readers
def test_a_misfit_names_the_first_keys(read, tmp_path):
    state = iebn_network().state_dict()
    for name in ('layer1.0.conv1.weight', 'layer1.0.conv2.weight', 'layer2.0.conv1.weight', 'layer2.0.conv2.weight'):
        del state[name]
    state['one.more'] = torch.ones(3)
    with pytest.raises(IEBNZooError) as e:
        read(as_state_dict(checkpoint(state_dict=state), tmp_path))
    message = str(e.value)
    assert "lacks 'layer1.0.conv1.weight', 'layer1.0.conv2.weight', 'layer2.0.conv1.weight', ... (4 miss" in message
    assert "has an unknown 'one.more' (1 foreign)" in message and len(message.splitlines()) == 2


@readers
@pytest.mark.parametrize('content', [
    [1, 2], 'text', 5, None, {}, {'state_dict': {}}, {'state_dict': 5}, {'model': None}, {1: torch.ones(1)},
    {'state_dict': {'a': {'b': torch.ones(1)}}}, {'a': [torch.ones(1)]}, {'state_dict': {'a\nb' * 999: 5}}, (),
    {'a': 1}],
    ids=lambda v: repr(v)[:40])
def test_files_of_something_else(read, content, tmp_path):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(IEBNZooError) as e:
        read(tmp_path / 'x.pth')
    assert len(str(e.value).splitlines()) <= 3 and len(str(e.value)) < 800


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {'a': value}
    return value


@readers
@pytest.mark.parametrize('field, value', [
    ('model_args', 5), ('model_args', {5: 1}), ('model_args', [1]), ('label_names', 5), ('label_names', ['a', 'b', 1]),
    ('label_names', ['a', 'b', '\ud800']), ('data_config', dict(DATA, mean='x')),
    ('data_config', dict(DATA, std=[0, 1, 1])),
    ('data_config', dict(DATA, input_size=[3, 10**9, 10**9])), ('data_config', dict(DATA, mean=[10**400] * 3)),
    ('data_config', dict(DATA, crop_pct=float('nan'))), ('model_args', nested(200)),
    ('arch', 'iebn_resnet9000')], ids=lambda v: repr(v)[:40])
def test_fields_of_a_wrong_kind(read, field, value, tmp_path):
    path = as_ours(checkpoint(**{field: value}), tmp_path)
    with pytest.raises(IEBNZooError) as e:
        read(path)
    assert len(str(e.value).splitlines()) <= 3 and len(str(e.value)) < 600


@readers
def test_damaged_safetensors(read, tmp_path):
    path = as_safetensors(checkpoint(), tmp_path)
    whole = path.read_bytes()
    length = struct.unpack('<Q', whole[:8])[0]
    for broken in (b'', whole[:5], whole[:100], whole[:-1], whole + b'x', b'\xff' * 8 + whole[8:],
                   struct.pack('<Q', length + 1) + whole[8:], whole[:8] + b'[' * length + whole[8 + length:],
                   whole.replace(b'"F32"', b'"F99"', 1), whole.replace(b'"F32"', b'"F64"', 1),
                   whole.replace(b'"shape":[', b'"shape":{', 1)):
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match='damaged or no checkpoint') as e:
            read(path)
        assert len(str(e.value).splitlines()) <= 3


@readers
def test_a_file_that_must_not_be_read_is_not_called_damaged(read, tmp_path, monkeypatch):
    path, whole = as_safetensors(checkpoint(), tmp_path), open

    def refuse(file, *args, **kwargs):
        if str(file) == str(path):
            raise PermissionError(13, 'Permission denied')
        return whole(file, *args, **kwargs)

    monkeypatch.setattr('builtins.open', refuse)  # root may read everything
    with pytest.raises(IEBNZooError, match='Permission denied.*\n.*may be whole') as e:
        read(path)
    assert not isinstance(e.value, DamagedError)


def test_safetensors_by_another_name(tmp_path):
    path = as_safetensors(checkpoint(), tmp_path).rename(tmp_path / 'weights.bin')
    assert read_weights_file(path).kind == 'safetensors' and same_logits(by_reference(path), iebn_network())


def test_a_resume_refuses_what_every_reader_refuses(tmp_path):
    from iebn_zoo.weights.fit import load_weights
    model = iebn_network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for name, change in (('fc.bias', _put(float('nan'))), ('layer1.0.bn1.bn.running_var', _put(-1.)),
                         ('fc.weight', lambda t: t.to(torch.int32)), ('fc.weight', lambda t: t.to(torch.complex64))):
        with pytest.raises(IEBNZooError, match=name):
            load_weights(model, changed(name, change), 'the checkpoint')
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_integers_stay_where_a_network_has_integers():
    from iebn_zoo.weights.fit import load_weights

    class WithIndex(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('index', torch.arange(3))
            self.register_buffer('mask', torch.tensor([True, False]))

    load_weights(WithIndex(), WithIndex().state_dict(), 'x')
    with pytest.raises(IEBNZooError, match='Expected whole numbers there'):
        load_weights(WithIndex(), {**WithIndex().state_dict(), 'index': torch.ones(3)}, 'x')


def test_export_opens_checkpoints_of_runs_alone(tmp_path):
    with pytest.raises(IEBNZooError, match='is no checkpoint of a training run'):
        export(as_timms(checkpoint(), tmp_path), tmp_path / 'out')
