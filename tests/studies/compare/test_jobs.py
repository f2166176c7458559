"""Real processes, but of the shell: they start in milliseconds."""
import os
import signal
import subprocess
import sys
import time

import pytest

from iebn_zoo.studies.compare.jobs import Job, environment, run_jobs

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='uses sh')


def job(root, name, *scripts):
    return Job(name, [lambda s=s: None if s is None else ['sh', '-c', s] for s in scripts], root / f'{name}.log')


def run(jobs, slots=1, waiting=lambda: None):
    order = []
    run_jobs(jobs, slots, dict(os.environ, WORD='shared'), lambda j: order.append(f'+{j.name}'),
             lambda j: order.append(f'-{j.name}'), waiting)
    return order


def test_a_failure_stops_its_own_commands_and_no_other_job(tmp_path):
    bad = job(tmp_path, 'bad', 'echo "error: no such thing."; echo Do this.; exit 3', 'touch never')
    good = job(tmp_path, 'good', 'echo $WORD', None, 'echo twice')
    assert run([bad, good]) == ['+bad', '-bad', '+good', '-good']
    assert (bad.code, good.code) == (3, 0)
    assert bad.error() == 'error: no such thing. Do this.' and not (tmp_path / 'never').exists()
    assert good.log.read_text() == 'shared\ntwice\n'


def test_as_many_at_once_as_there_are_slots(tmp_path):
    # each of the first two waits for the other: one at a time they would not end
    meet = [f'touch {tmp_path}/{a}; while [ ! -e {tmp_path}/{b} ]; do sleep 0.05; done' for a, b in ('xy', 'yx')]
    jobs = [job(tmp_path, 'a', meet[0]), job(tmp_path, 'b', meet[1]), job(tmp_path, 'c', 'true')]
    order = run(jobs, slots=2)
    assert order[:2] == ['+a', '+b'] and order.index('+c') > 2 and [j.code for j in jobs] == [0, 0, 0]


def test_the_reason_is_that_of_the_last_command(tmp_path):
    bad = job(tmp_path, 'a', 'echo "error: an old reason."; exit 1')
    run([bad])
    assert bad.error() == 'error: an old reason.'
    again = job(tmp_path, 'a', 'echo "error: passed over."', 'echo Killed; exit 9')
    run([again])
    assert again.error() == 'Killed' and 'an old reason' in again.log.read_text()
    silent = job(tmp_path, 'a', 'exit 7')
    run([silent])
    assert silent.error() == 'exit code 7'


def test_nothing_to_do_is_no_failure(tmp_path):
    done = job(tmp_path, 'done', None)
    assert run([done]) == ['+done', '-done'] and done.code == 0 and not done.log.exists()


@pytest.mark.parametrize('ignored', [False, True])
def test_an_interrupt_reaches_the_processes_once_and_waits_for_them(tmp_path, request, ignored):
    """Also where SIGINT is ignored, as in what a shell starts in the background; the processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    caught = f"trap 'echo caught >> {tmp_path}/caught; sleep 0.3; exit 1' INT TERM"
    script = f'{caught}; touch {tmp_path}/up; while :; do sleep 0.05; done'

    def waiting():
        if (tmp_path / 'up').exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([job(tmp_path, 'a', script), job(tmp_path, 'b', 'touch never')], waiting=waiting)
    assert (tmp_path / 'caught').read_text() == 'caught\n' and not (tmp_path / 'never').exists()


def test_sigterm_is_an_interrupt_and_leaves_the_handler_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    sent = []

    def waiting():
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(KeyboardInterrupt):
        run([job(tmp_path, 'a', 'exec sleep 60')], waiting=waiting)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_another_process_trains_is_left_alone(tmp_path):
    # as after a parent that was killed: its process lives on with the log as its output
    holder = ("import fcntl, sys, time\nlog = open(sys.argv[1], 'ab')\nfcntl.flock(log, fcntl.LOCK_EX)\n"
              "print('held', flush=True)\ntime.sleep(60)")
    first = subprocess.Popen([sys.executable, '-c', holder, str(tmp_path / 'a.log')], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == 'held\n'
        second = job(tmp_path, 'a', f'touch {tmp_path}/never')
        run([second])
        assert second.code == 1 and second.error() == 'another process is running it'
        assert not (tmp_path / 'never').exists()
    finally:
        first.kill()
        first.wait()
    again = job(tmp_path, 'a', 'true')
    run([again])
    assert again.code == 0


def test_a_job_holds_its_lock_while_it_runs(tmp_path):
    seen = []

    def waiting():
        other = job(tmp_path, 'a', 'true')
        if not seen:
            run([other])
            seen.append(other.locked)

    run([job(tmp_path, 'a', 'sleep 0.5')], waiting=waiting)
    assert seen == [True]


def test_jobs_on_the_cpu_share_its_cores(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    assert environment(2, on_cpu=True)['OMP_NUM_THREADS'] == str(max(1, os.cpu_count() // 2))
    assert 'OMP_NUM_THREADS' not in environment(1, on_cpu=True)
    assert 'OMP_NUM_THREADS' not in environment(4, on_cpu=False)
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert environment(2, on_cpu=True)['OMP_NUM_THREADS'] == '3'


def test_the_time_of_a_job_is_its_own(tmp_path):
    slow = job(tmp_path, 'slow', 'sleep 0.3')
    start = time.perf_counter()
    run([slow])
    assert 0.3 <= slow.seconds <= time.perf_counter() - start + 0.01
