"""Standard output that cannot be written, and Ctrl-C while a command starts: processes, exit codes, messages."""
import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.command_line.output import surviving_output
from iebn_zoo.util.errors import IEBNZooError
from tests.support.training.datasets import flags

COMMAND = (sys.executable, '-m', 'iebn_zoo')


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def environment(buffered=True, **more):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
    return {**env, 'OMP_NUM_THREADS': '1', **({} if buffered else {'PYTHONUNBUFFERED': '1'}), **more}


@pytest.mark.parametrize('argv, buffered', [
    (('models', '*20*'), True), (('models', '*20*'), False), (('--help',), False), (('plot', '--help'), True)])
def test_a_command_whose_output_is_lost_fails_in_two_lines(argv, buffered):
    with open('/dev/full', 'w') as full:
        done = subprocess.run([*COMMAND, *argv], env=environment(buffered), stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=120)
    assert done.returncode == 1
    assert 'error: standard output cannot be written: No space left on device.' in done.stderr
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr


def test_a_training_goes_on_without_its_output_and_says_so(image_folder, tmp_path):
    argv = [*COMMAND, 'train', *flags(image_folder, tmp_path / 'run', '--img-size', '16')]
    with open('/dev/full', 'w') as full:
        done = subprocess.run(argv, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1 and len(load_checkpoint(tmp_path / 'run' / LAST)['rows']) == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith('warning: standard output cannot be written (No space left on device). The command goes')
    assert lines[1].startswith('error: standard output could not be written') and len(lines) == 3
    with open('/dev/full', 'w') as full:  # nor with nowhere to say anything
        done = subprocess.run([*argv, '--overwrite'], env=environment(), stdout=full, stderr=full, timeout=300)
    assert done.returncode == 1 and len(load_checkpoint(tmp_path / 'run' / LAST)['rows']) == 2


def test_a_training_goes_on_when_its_reader_has_gone(image_folder, tmp_path):
    process = subprocess.Popen([*COMMAND, 'train', *flags(image_folder, tmp_path / 'run', '--img-size', '16')],
                               env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith('started from')
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(300) == 1 and 'Traceback' not in err and 'Broken pipe' in err
    assert len(load_checkpoint(tmp_path / 'run' / LAST)['rows']) == 2


def test_what_is_written_comes_through_and_an_error_of_the_block_is_not_hidden():
    with redirect_stdout(io.StringIO()) as said, surviving_output():
        print('a', flush=True)
        assert not sys.stdout.isatty()
    assert said.getvalue() == 'a\n'
    with redirect_stdout(Full()):
        with pytest.raises(KeyError), surviving_output():
            print('a', flush=True)
            raise KeyError
        with pytest.raises(IEBNZooError, match='No space left'), surviving_output():
            print('a', flush=True)


INTERRUPTED = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
"""


def test_ctrl_c_while_the_modules_of_a_command_are_imported_is_one_line(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(INTERRUPTED.format(name='iebn_zoo.commands.models'))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get('PYTHONPATH')])])
    env = environment(PYTHONPATH=path)
    done = subprocess.run([*COMMAND, 'models'], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', 'interrupted\n')


def test_an_error_of_a_file_is_not_one_of_standard_output(capsys):
    def main(argv):
        print('a')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # such as a loader process's, without room in /dev/shm
    with pytest.raises(OSError, match='No space left'):
        run(main)
    assert 'standard output' not in capsys.readouterr().err
    with redirect_stdout(Full()):
        assert run(lambda argv: print('a', flush=True) or 0) == 1
    assert 'error: standard output cannot be written: No space left' in capsys.readouterr().err
