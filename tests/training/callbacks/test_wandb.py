"""``--log-wandb``: offline with the real package; what a server would answer is told by a stand-in."""
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks import wandb_log
from iebn_zoo.training.callbacks.wandb_log import WandbLog
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.training.run.records import read_summary
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.processes import Processes
from iebn_zoo.util.resources import install_command
from tests.support.training.datasets import flags
from tests.support.training.wandb_files import described, history, records, segments
from tests.training.kill_and_resume import compare_runs

TINY = ('--model-kwargs', 'layers=(1,1,1)', '--sched', 'none', '--model-ema')
LOG = ('--log-wandb', '--wandb-project', 'tests', '--wandb-tags', 'one', 'two')


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    wandb = pytest.importorskip('wandb')
    for name in ('WANDB_API_KEY', 'WANDB_PROJECT', 'WANDB_RUN_ID', 'WANDB_DIR'):
        monkeypatch.delenv(name, raising=False)
    for name in ('HOME', 'WANDB_CONFIG_DIR', 'WANDB_CACHE_DIR', 'WANDB_DATA_DIR'):
        monkeypatch.setenv(name, str(tmp_path / 'home'))
    monkeypatch.setenv('WANDB_ERROR_REPORTING', 'false')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    wandb.teardown()  # it reads the environment once per process
    yield
    wandb.teardown()


def test_a_run_is_the_same_bits_and_its_continuation_goes_on_in_the_same_wandb_run(image_folder, tmp_path):
    with_log, without = tmp_path / 'with', tmp_path / 'without'
    train(flags(image_folder, without, *TINY))
    train(flags(image_folder, with_log, *TINY, *LOG))
    assert compare_runs(with_log, without) == []
    file, = segments(with_log)
    rows = read_summary(with_log)
    assert history(file) == [{**row, '_step': row['epoch']} for row in rows] and len(rows) == 2
    said, saved = described(file), load_checkpoint(with_log / LAST)
    assert saved['extensions']['wandb'] == {'id': said['id']}
    assert (said['tags'], said['project'], said['name']) == (['one', 'two'], 'tests', 'iebn_resnet20_cifar with')
    assert said['config']['lr'] == 0.05 and said['config']['model_kwargs'] == {'layers': [1, 1, 1]}
    assert not {'output', 'data_dir', 'wandb_project', 'resume'} & set(said['config'])
    text = ''.join(str(record) for record in records(file))
    assert str(tmp_path) not in text and str(image_folder) not in text and sys.executable not in text
    train(flags(image_folder, with_log, *TINY, *LOG, '--epochs', '3', '--resume', '--allow-recipe-change'))
    again = segments(with_log)[1]
    assert described(again)['id'] == said['id'] and described(again)['config']['epochs'] == 3
    assert [row['epoch'] for row in history(again)] == [0, 1, 2]  # whole, as an upload replaces what was there


def test_what_is_wrong_is_said_before_the_directory_is_touched(image_folder, tmp_path, monkeypatch):
    run, wandb = tmp_path / 'run', sys.modules['wandb']
    monkeypatch.setenv('WANDB_MODE', 'online')
    monkeypatch.setattr('sys.stdin', open('/dev/null'))  # noqa: SIM115  no terminal to ask for a key
    wandb.teardown()
    with pytest.raises(UsageError, match='(?s)cannot log in.*wandb login.*WANDB_MODE=offline'):
        train(flags(image_folder, run, *LOG))
    monkeypatch.setattr(wandb, 'run', SimpleNamespace(id='other'))
    with pytest.raises(UsageError, match='the wandb run other open'):
        train(flags(image_folder, run, *LOG))
    for module in (None, ModuleType('wandb')):  # not installed; a folder that wandb has written
        monkeypatch.setitem(sys.modules, 'wandb', module)
        with pytest.raises(UsageError, match=re.escape(install_command('wandb'))):
            train(flags(image_folder, run, *LOG))
    for more, said in ((('--wandb-project', 'p'), '--wandb-project without --log-wandb'),
                       (('--wandb-tags', 't'), '--wandb-tags without --log-wandb'),
                       (('--log-wandb', '--wandb-resume-id', '../x'), 'expected the id|Expected the id')):
        with pytest.raises(UsageError, match=said):
            train(flags(image_folder, run, *more))
    assert not run.exists()


def test_a_failure_at_the_start_leaves_no_run_behind(image_folder, tmp_path, monkeypatch):
    def fails(**kwargs):
        raise RuntimeError('the server is down')

    monkeypatch.setattr(sys.modules['wandb'], 'init', fails)
    run = tmp_path / 'run'
    with pytest.raises(IEBNZooError, match='(?s)the server is down.*--no-log-wandb'):
        train(flags(image_folder, run, *TINY, *LOG))
    assert [path.name for path in run.iterdir()] == ['.lock']
    train(flags(image_folder, run, *TINY, '--epochs', '1'))  # the directory holds no run


def test_a_failure_on_the_way_is_one_warning_and_loses_no_epoch(image_folder, tmp_path, monkeypatch, capsys):
    psutil = pytest.importorskip('psutil')
    write = WandbLog.epoch_written

    def kill_and_write(self, run, row):
        for child in psutil.Process().children(recursive=True):
            if row['epoch'] == 0 and 'wandb' in child.name():
                child.kill()
                child.wait()
        write(self, run, row)

    monkeypatch.setattr(WandbLog, 'epoch_written', kill_and_write)
    train(flags(image_folder, tmp_path / 'run', *TINY, *LOG, '--epochs', '3'))
    assert capsys.readouterr().err.count('warning: --log-wandb: ') == 1
    assert len(read_summary(tmp_path / 'run')) == 3


class Server:
    """Stands in for wandb and a server that holds runs with some steps."""

    Settings = SimpleNamespace(model_fields=())

    def __init__(self, **steps):
        self.steps, self.inits, self.ended, self.sent = steps, [], [], []

    def setup(self):
        return SimpleNamespace(settings=SimpleNamespace(mode='online'))

    def init(self, id, resume, **kwargs):
        self.inits.append((id, resume))
        run = SimpleNamespace(step=self.steps.get(id, 0))

        def log(row, step, commit):
            assert step == row['epoch'] >= run.step and commit
            run.step = step + 1
            self.sent.append((id, step))

        run.log, run.finish = log, lambda exit_code: self.ended.append((id, exit_code))
        return run


def session(epochs, rank=0):
    model = torch.nn.Linear(1, 1)
    loader = SimpleNamespace(dataset=[])
    args = SimpleNamespace(flags=lambda: vars(train_parser().parse_args(['--output', '/home/me/r'])))
    return SimpleNamespace(
        rows=[dict(epoch=i, lr=0.1) for i in range(epochs)], processes=Processes(torch.device('cpu'), rank),
        output=Path('r'), arch='x', args=args, model_args={}, data_config={}, model=model, world=1,
        train_loader=loader, eval_loader=loader)


def begun(monkeypatch, server, epochs, id=None, resume_id=None, rank=0):
    monkeypatch.setattr(wandb_log, '_package', lambda: server)
    monkeypatch.setattr(Server, 'Settings', type('Settings', (), dict(model_fields=(), __init__=lambda s: None)))
    log, run = WandbLog(resume_id=resume_id), session(epochs, rank)
    log.load_state_dict(dict(id=id))
    log.run_start(run)
    return log, run


def test_a_server_gets_each_epoch_once(monkeypatch):
    server = Server(mine=1)  # the killed process had sent one of three epochs
    log, run = begun(monkeypatch, server, 3, id='mine')
    log.epoch_written(run, dict(epoch=3, lr=0.1))
    log.close(run)
    assert server.inits == [('mine', 'allow')] and server.ended == [('mine', 0)]
    assert server.sent == [('mine', 1), ('mine', 2), ('mine', 3)]


def test_a_resume_from_an_older_checkpoint_begins_a_new_wandb_run(monkeypatch, capsys):
    server = Server(mine=5)
    log, run = begun(monkeypatch, server, 2, id='mine')
    assert server.ended == [('mine', 0)] and log.state_dict()['id'] not in (None, 'mine')
    assert server.sent == [(log.id, 0), (log.id, 1)]
    assert 'the wandb run mine has 5 steps, and the checkpoint 2 epochs' in capsys.readouterr().out


def test_a_named_wandb_run_must_be_there_and_have_no_later_steps(monkeypatch):
    server = Server(named=2)
    log, _ = begun(monkeypatch, server, 2, id='mine', resume_id='named')
    assert server.inits == [('named', 'must')] and log.id == 'named' and server.sent == []
    with pytest.raises(UsageError, match='(?s)named has 2 steps.*0 epochs'):
        begun(monkeypatch, Server(named=2), 0, resume_id='named')


def test_only_the_first_process_logs(monkeypatch):
    server = Server()
    log, run = begun(monkeypatch, server, 1, rank=1)
    log.epoch_written(run, dict(epoch=1))
    log.close(run)
    assert server.inits == server.sent == server.ended == []


@pytest.mark.parametrize('error, code', [(ValueError, 1), (KeyboardInterrupt, 0)])
def test_the_end_of_the_training_is_that_of_the_wandb_run(monkeypatch, error, code):
    server = Server()
    log, run = begun(monkeypatch, server, 0)
    with pytest.raises(error):
        try:
            raise error
        finally:
            log.close(run)
    assert server.ended == [(log.id, code)]


def test_a_checkpoint_names_an_id_and_no_place():
    for id in ('../../x', 'a/b', 7, 'x' * 65):
        with pytest.raises(IEBNZooError, match='no id of wandb'):
            WandbLog().load_state_dict(dict(id=id))
