"""A checkpoint whose checksum is right and whose content is anybody's: a resume says so, or goes on."""
import math

import pytest
import torch

from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from tests.support.training.datasets import flags
from tests.support.weights.files import refused, run


@pytest.fixture(scope='module')
def argv(image_folder, tmp_path_factory):
    """A finished run of one epoch, as the command that resumes it."""
    from iebn_zoo.commands.train import main as train
    command = flags(image_folder, tmp_path_factory.mktemp('resume') / 'run', '--model-kwargs', 'layers=[1,1,1]',
                    '--epochs', '1', '--model-ema')
    train(command)
    return ['train', *command]


@pytest.fixture
def resume(argv, tmp_path, capsys):
    """Resumes a copy of the run whose last checkpoint was changed."""
    def call(**changes):
        output = argv[argv.index('--output') + 1]
        content = {**load_checkpoint(f'{output}/{LAST}'), **changes}
        save_checkpoint(tmp_path / 'changed.pth.tar', {k: v for k, v in content.items() if v is not ...})
        copy = [str(tmp_path / 'run') if part == output else part for part in argv]
        return run(capsys, *copy, '--resume', tmp_path / 'changed.pth.tar', '--allow-recipe-change')
    return call


def test_what_was_not_changed_is_resumed(resume):
    code, out, err = resume()
    assert code == 0 and 'resuming ' in out, err


@pytest.mark.parametrize('field', [
    'position', 'args', 'machine', 'num_train_images', 'optimizer', 'rows', 'timing', 'skipped', 'rollbacks', 'arch',
    'extensions', 'rng', 'loss_sums', 'batch_size', 'updates', 'scheduler', 'state_dict', 'model_args', 'epoch'])
@pytest.mark.parametrize('value', [..., 5, None, [5], [{'a': 5}], {'a': 5}, 'x'], ids=repr)
def test_a_field_that_training_did_not_write(resume, field, value):
    answer = resume(**{field: value})
    if answer[0]:  # what is of the right kind may do no harm: another count of rollbacks, a note on the machine
        refused(answer)
    else:
        assert 'resuming ' in answer[1]


def test_weights_that_no_network_has(resume, argv):
    state = load_checkpoint(f"{argv[argv.index('--output') + 1]}/{LAST}")['state_dict']
    nan = {**state, 'fc.bias': torch.full_like(state['fc.bias'], math.nan)}
    refused(resume(state_dict=nan), 'fc.bias has NaN')
    refused(resume(state_dict_ema=nan), 'fc.bias has NaN')
    refused(resume(state_dict={**state, 'conv1.weight': state['conv1.weight'].to(torch.int32)}), 'int32')
