"""``--log-wandb``: the columns of summary.csv as the history of a run of Weights & Biases (wandb)."""
import argparse
import re
import secrets
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

import timm
import torch

from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.util.command_line.flags import Switch
from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line
from iebn_zoo.util.places import DATASETS, dataset_name, without_places
from iebn_zoo.util.resources import install_line
from iebn_zoo.version import __version__

if TYPE_CHECKING:
    from iebn_zoo.training.engine.run import Run

FLAGS = ('log_wandb', 'wandb_project', 'wandb_tags', 'wandb_resume_id')
# flags that name places on this machine or say how the command was started
_LEFT_OUT = (*FLAGS, 'output', 'data_dir', 'mix_dataset', 'dataset_download', 'resume', 'overwrite',
             'allow_recipe_change')
_ID = re.compile(r'[\w-]{1,64}', re.ASCII)  # wandb makes a directory of this name
_FINISH_SECONDS = 60.  # for the upload of what is left when training ends
_NO_SYNC = ('offline', 'dryrun', 'disabled')


class WandbLog(Extension):
    """Logs each epoch to a run of wandb, from the first process; names and values are those of summary.csv, as timm's.

    The step is the epoch. The id of the wandb run is part of the checkpoint, so that a resumed run goes on in it: it
    sends the epochs that the server lacks. Offline it writes all epochs again into a directory of the same id. A
    resume from an older checkpoint, whose later epochs the server has already, goes on in a new wandb run.

    Nothing of the machine is sent but its load: no path, no command line, no output of the terminal.
    """

    name = 'wandb'
    free_flags = FLAGS

    def __init__(self, project: Optional[str] = None, tags: Optional[List[str]] = None,
                 resume_id: Optional[str] = None) -> None:
        self.project, self.tags, self.resume_id = project, list(tags or []), resume_id
        self.id: Optional[str] = None
        self.logged: Any = None  # the run of wandb, while there is one to log to
        self.step = 0  # the first step that it lacks
        self.failed = False

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        g = parser.add_argument_group('logs')
        g.add_argument('--log-wandb', action=Switch, help='also log the columns of summary.csv to Weights & Biases; '
                       'WANDB_MODE=offline writes them into RUN/wandb, for wandb sync')
        g.add_argument('--wandb-project', metavar='NAME', help="wandb's project (default: WANDB_PROJECT, or wandb's)")
        g.add_argument('--wandb-tags', nargs='+', default=[], metavar='TAG', help='tags of the wandb run')
        g.add_argument('--wandb-resume-id', metavar='ID', help='go on in this wandb run (default: a resumed run goes '
                       'on in its own)')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['WandbLog']:
        given = next((name for name in FLAGS[1:] if getattr(args, name)), None)
        if not args.log_wandb:
            if given is not None:
                raise UsageError(f"--{given.replace('_', '-')} without --log-wandb.\nAdd --log-wandb, or leave it out.")
            return None
        if args.wandb_resume_id and not _ID.fullmatch(args.wandb_resume_id):
            raise UsageError(f'--wandb-resume-id is {args.wandb_resume_id!r}.\n'
                             f"Expected the id of a run, which is the last word of its page's address.")
        _package()
        return cls(args.wandb_project or None, args.wandb_tags, args.wandb_resume_id or None)

    def prepare(self, run: 'Run') -> None:
        run.processes.on_first(self._log_in)

    def run_start(self, run: 'Run') -> None:
        run.processes.on_first(lambda: self._begin(run))
        if self.logged is not None:
            for row in run.rows:
                self.epoch_written(run, row)

    def epoch_written(self, run: 'Run', row: Dict[str, Any]) -> None:
        if self.logged is not None and row['epoch'] >= self.step:
            self._try(lambda: self.logged.log(dict(row), step=row['epoch'], commit=True))
            self.step = row['epoch'] + 1

    def close(self, run: 'Run') -> None:
        if self.logged is not None:
            failed = sys.exc_info()[0]
            code = 1 if failed is not None and issubclass(failed, Exception) else 0  # a signal is no failure
            self._try(lambda: self.logged.finish(exit_code=code))
            self.logged = None
        if self.failed:
            with suppress(Exception):
                _package().teardown()  # or it would tell at the exit that its own process is gone

    def state_dict(self) -> Dict[str, Any]:
        return dict(id=self.id)

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        found = state['id']
        if found is not None and not (isinstance(found, str) and _ID.fullmatch(found)):
            raise IEBNZooError(f'the checkpoint names the wandb run {str(found)[:80]!r}, which is no id of wandb.\n'
                               f'Resume with --no-log-wandb, or with a checkpoint that training wrote.')
        self.id = found

    def _log_in(self) -> None:
        wandb = _package()
        if wandb.run is not None:
            raise UsageError(f'--log-wandb: this process has the wandb run {wandb.run.id} open already.\n'
                             f'End it with wandb.finish() first.')
        try:
            if wandb.setup().settings.mode not in _NO_SYNC:
                wandb.login()
        except Exception as e:  # wandb has many kinds of errors, its own and those of pydantic and of requests
            raise UsageError(f'--log-wandb cannot log in: {first_line(e)}\n'
                             f'Run wandb login, set WANDB_API_KEY, or log to files with WANDB_MODE=offline.') from e

    def _begin(self, run: 'Run') -> None:
        done, asked = len(run.rows), self.resume_id
        if asked:
            self.id = asked
        goes_on = self.id is not None
        self.id = self.id or secrets.token_hex(4)
        self._init(run, 'must' if asked else 'allow' if goes_on else None)
        if self.step <= done:
            return
        ahead = f'the wandb run {self.id} has {self.step} steps, and the checkpoint {done} epochs'
        self.close(run)
        if asked:
            raise UsageError(f'--wandb-resume-id: {ahead}; wandb replaces no step.\n'
                             f'Leave the flag out, or resume the training that this wandb run belongs to.')
        self.id = secrets.token_hex(4)
        print(f'{ahead}: training goes on in the new wandb run {self.id}', flush=True)
        self._init(run, None)

    def _init(self, run: 'Run', resume: Optional[str]) -> None:
        wandb = _package()
        offline = wandb.setup().settings.mode in _NO_SYNC  # there wandb warns that it resumes nothing
        try:
            self.logged = wandb.init(
                project=self.project, name=f'{run.arch} {run.output.resolve().name}', tags=self.tags or None,
                id=self.id, resume=None if offline else resume, dir=str(run.output), config=config_of(run),
                allow_val_change=True, settings=_settings(wandb))
            self.step = self.logged.step  # asked once: it is a question to another process, which may die
        except Exception as e:
            raise IEBNZooError(f'--log-wandb cannot begin: {first_line(e)}\n'
                               f'Correct it, log to files by WANDB_MODE=offline, or train with --no-log-wandb.') from e

    def _try(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as e:  # whatever happens to the log, the training goes on
            self.logged, self.failed = None, True
            print(f'warning: --log-wandb: {first_line(e)}\nTraining goes on without wandb; summary.csv has every '
                  f'epoch, and --resume sends those that wandb lacks.', file=sys.stderr, flush=True)


def config_of(run: 'Run') -> Dict[str, Any]:
    """Return the recipe of a run with its network and its data, without places on this machine, as JSON values."""
    flags = {name: dataset_name(value) if name in DATASETS and value else without_places(value)
             for name, value in run.args.flags().items() if name not in _LEFT_OUT}
    return dict(flags, arch=run.arch, model_args=without_places(run.model_args), data_config=run.data_config,
                parameters=sum(p.numel() for p in run.model.parameters()), processes=run.world,
                train_images=len(run.train_loader.dataset), eval_images=len(run.eval_loader.dataset),
                iebn_zoo=__version__, timm=timm.__version__, torch=str(torch.__version__))


def _package() -> Any:
    try:
        import wandb
    except ImportError as e:
        raise _missing() from e
    if not hasattr(wandb, 'init'):  # a folder of that name, such as the one that wandb itself writes
        raise _missing()
    return wandb


def _missing() -> UsageError:
    return UsageError('--log-wandb needs the package wandb, which is not installed.\n'
                      f"Run: {install_line('wandb')}")


def _settings(wandb: Any) -> Any:
    wanted: Dict[str, Any] = dict(console='off', disable_git=True, disable_code=True, save_code=False,
                                  x_disable_meta=True, finish_timeout=_FINISH_SECONDS)
    known = wandb.Settings.model_fields  # versions differ
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
