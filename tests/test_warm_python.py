"""The stand-in for Python of tests/support/warm does what Python does, but for the start."""
import os
import resource
import signal
import socket
import subprocess
import sys

import pytest

from tests.support.training.datasets import interruptible

REAL = sys.executable
pytestmark = [pytest.mark.usefixtures('warm_python'),
              pytest.mark.skipif(not hasattr(os, 'pidfd_open'), reason='needs Linux')]
WARM = 'import sys; print(*(m in sys.modules for m in ("torch", "timm", "huggingface_hub", "iebn_zoo")))'


def run(*argv, **kwargs):
    return subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, timeout=120, **kwargs)


def test_it_has_torch_and_nothing_that_a_program_must_import_itself():
    assert sys.executable != REAL
    assert run('-c', WARM).stdout == 'True False False False\n'


@pytest.mark.parametrize('argv', [['-c', 'import sys; sys.exit(3)'], ['-c', 'raise ValueError("what")'],
                                  ['-c', 'import sys; sys.exit("said")'], ['-m', 'iebn_zoo', 'nothing'],
                                  ['-c', 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'],
                                  ['-c', 'import os; os.abort()'], ['-c', 'x = (']])
def test_its_end_is_that_of_python(argv):
    warm, real = run(*argv), subprocess.run([REAL, *argv], capture_output=True, text=True)
    assert warm.returncode == real.returncode != 0
    assert (warm.stderr.splitlines() or [''])[-1] == (real.stderr.splitlines() or [''])[-1]


PROGRAM = '''
import atexit, os, sys
def here(): return __name__, [os.path.basename(a) for a in sys.argv[1:]], os.getcwd(), os.environ['WORD'], sys.path[0]
atexit.register(lambda: print('the end'))
print(here(), sys.stdin.read())
sys.stderr.write('wrong')
'''


@pytest.mark.parametrize('how', ['-c', '-m', 'script'])
def test_arguments_streams_directory_and_variables_are_its_own(how, tmp_path):
    (tmp_path / 'program.py').write_text(PROGRAM)
    argv = {'-c': ['-c', PROGRAM], '-m': ['-m', 'program'], 'script': [str(tmp_path / 'program.py')]}[how]
    said = [subprocess.run([python, *argv, 'one', '--two'], cwd=tmp_path, env={**os.environ, 'WORD': 'a b'},
                           input='typed', capture_output=True, text=True, timeout=120)
            for python in (REAL, sys.executable)]
    assert said[0].stdout == said[1].stdout and 'typed\nthe end' in said[1].stdout
    assert said[1].stderr == 'wrong'


@pytest.mark.parametrize('change', [
    dict(env={**os.environ, 'OMP_NUM_THREADS': '3'}), dict(env={**os.environ, 'PYTHONUTF8': '1'}), dict(options=['-u']),
    dict(preexec_fn=lambda: os.close(0)), dict(preexec_fn=lambda: os.umask(0o77)),
    dict(preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN)),
    dict(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)))])
def test_what_a_fork_cannot_be_is_a_fresh_interpreter(change):
    options = change.pop('options', [])
    assert run(*options, '-c', WARM, **change).stdout == 'False False False False\n'


ENDLESS = '''
import signal, sys, time
for name in ('SIGTERM', 'SIGUSR1'):
    signal.signal(getattr(signal, name), lambda n, frame: (print(n, flush=True), n == signal.SIGTERM and sys.exit(7)))
try:
    print('ready', flush=True)
    while True: time.sleep(0.05)
except KeyboardInterrupt:
    print('interrupted')
'''


def endless():
    process = subprocess.Popen([sys.executable, '-c', ENDLESS], stdout=subprocess.PIPE, text=True,
                               preexec_fn=interruptible)
    assert process.stdout is not None and process.stdout.readline() == 'ready\n'
    return process


def test_signals_arrive():
    process = endless()
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == f'{int(signal.SIGUSR1)}\n'
    process.terminate()
    assert process.communicate(timeout=60)[0] == '15\n' and process.returncode == 7
    process = endless()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == 'interrupted\n' and process.returncode == 0


def test_a_descriptor_of_its_own_is_kept():
    reading, writing = os.pipe()
    assert run('-c', f'import os; os.write({writing}, b"said")', pass_fds=[writing]).returncode == 0
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == 'said'


WITH_A_CHILD = """
import os, time
if os.fork(): print('ready', flush=True)
time.sleep(600)
"""


def test_whoever_kills_its_session_has_killed_its_children():
    process = subprocess.Popen([sys.executable, '-c', WITH_A_CHILD], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b'ready\n'
    os.killpg(process.pid, signal.SIGKILL)
    with process.stdout:
        assert process.stdout.read() == b''  # it ends when the last of them has closed its end
    process.wait(60)


def test_a_client_that_goes_before_it_has_asked_leaves_nobody(warm_python):
    path = os.path.join(os.path.dirname(warm_python), 's')
    for sent in (b'', b'{"kind"'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            if sent:
                socket.send_fds(connection, [sent], [0, 1, 2])
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(60)
            assert connection.recv(1) == b''  # the keeper has ended


def test_whoever_kills_it_has_killed_the_program():
    process = endless()
    process.kill()
    with process.stdout:
        assert process.stdout.read() == ''  # it ends when the program has closed its end
    assert process.wait(60) == -signal.SIGKILL
