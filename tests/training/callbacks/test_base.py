"""The hook points: when each is called, with what, and that a run without extensions is the same bits."""
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks import base as extensions
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import differences


class Spy(Extension):
    """Writes down its calls; counts epochs in its state."""

    name, free_flags = 'spy', ('spy_loudly',)
    made = []

    def __init__(self):
        self.calls, self.epochs = [], 0
        self.made.append(self)

    @staticmethod
    def add_arguments(parser):
        parser.add_argument('--spy', action='store_true')
        parser.add_argument('--spy-loudly', action='store_true')

    @classmethod
    def from_args(cls, args):
        return cls() if args.spy else None

    def prepare_model(self, model):
        self.calls.append('prepare_model')

    def prepare(self, session):
        assert not session.output.exists() or session.args.resume
        self.calls.append('prepare')

    def run_start(self, session):
        self.calls.append(f'run_start {len(session.rows)}')

    def epoch_start(self, session, epoch, step):
        self.calls.append(f'epoch_start {epoch} {step}')

    def companions(self, epoch, step):
        self.calls.append(f'companions {epoch} {step}')

    def epoch_end(self, session, row):
        self.epochs += 1
        row['spied'] = float(self.epochs)
        self.calls.append('epoch_end')

    def epoch_written(self, session, row):
        assert (session.output / 'summary.csv').read_text().splitlines()[-1].endswith(f"{row['spied']}")
        self.calls.append('epoch_written')

    def close(self, session):
        self.calls.append('close')

    def state_dict(self):
        return dict(epochs=self.epochs)

    def load_state_dict(self, state):
        self.epochs = state['epochs']


def test_hooks_are_called_in_order_and_their_state_resumes(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extensions, 'EXTENSIONS', ('tests.training.callbacks.test_base:Spy',))
    monkeypatch.setattr(Spy, 'made', [])
    tiny = ('--img-size', '16', '--batch-size', '24')
    train(flags(image_folder, tmp_path / 'plain', *tiny))
    assert Spy.made == []
    train(flags(image_folder, tmp_path / 'run', *tiny, '--spy'))
    epoch = ['epoch_start {0} 0', 'companions {0} 0', 'companions {0} 1', 'epoch_end', 'epoch_written']
    assert Spy.made[0].calls == ['prepare_model', 'prepare', 'run_start 0',
                                 *(call.format(e) for e in range(2) for call in epoch), 'close']
    plain, last = (load_checkpoint(tmp_path / name / LAST) for name in ('plain', 'run'))
    assert [r['spied'] for r in last['rows']] == [1., 2.]
    for key in ('state_dict', 'optimizer', 'rng'):
        assert differences(plain[key], last[key]) == []
    assert torch.equal(plain['state_dict']['fc.weight'], last['state_dict']['fc.weight'])
    train(flags(image_folder, tmp_path / 'run', *tiny, '--spy', '--spy-loudly', '--resume',
                str(tmp_path / 'run' / 'checkpoint-0.pth.tar')))
    assert [r['spied'] for r in load_checkpoint(tmp_path / 'run' / LAST)['rows']] == [1., 2.]
    assert Spy.made[1].calls[:4] == ['prepare_model', 'prepare', 'run_start 1', 'epoch_start 1 0']


def test_registered_extensions_have_names_of_their_own_and_real_flags():
    classes = extensions.extension_classes()
    names = [cls.name for cls in classes]
    assert all(names) and len(set(names)) == len(names)
    known = {action.dest for action in train_parser()._actions}
    assert {flag for cls in classes for flag in cls.free_flags} <= known
    assert extensions.create_extensions(train_parser().parse_args([])) == []
