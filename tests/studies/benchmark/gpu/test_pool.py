"""Processes that prepare together, measure one at a time, and are ended in time."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iebn_zoo.studies.benchmark.gpu.parts import Job, Part
from iebn_zoo.studies.benchmark.gpu.pool import run_part
from iebn_zoo.studies.benchmark.process import run
from tests.support.paths import ROOT

# a worker whose behaviour is the name of its device
STUB = '''
import json, os, signal, subprocess, sys, time
what = json.loads(sys.stdin.readline())['device']
def say(**message): print(json.dumps(message), flush=True)
if what == 'stuck': time.sleep(600)
if what == 'late': time.sleep(600)
if what == 'wrong':
    say(failed='IEBNZooError: the operator is wrong', message='the operator is wrong'); sys.exit(1)
if what == 'dies': print('CUDA error: no', file=sys.stderr); os.kill(os.getpid(), signal.SIGSEGV)
began = time.monotonic()
say(ready=True)
sys.stdin.readline()
say(what=what, began=began, at=time.monotonic())
if what == 'slow':
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    say(child=child.pid); time.sleep(600)
time.sleep(0.3)
say(what=what, at=time.monotonic())
'''
COMMAND = (sys.executable, '-c', STUB)


def part(*names):
    jobs = [Job('check' if name in ('check', 'wrong', 'stuck') else 'layers', name) for name in names]
    return Part('p', tuple(jobs), 0)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]


def outcome(seconds, *names):
    records = []
    errors = run_part(part(*names), seconds, lambda job, record: records.append(record), COMMAND)
    return errors, records


def test_prepared_together_measured_apart():
    errors, records = outcome(60, 'a', 'b', 'c')
    assert errors == [None] * 3 and [r['what'] for r in records] == list('aabbcc')
    assert max(r['began'] for r in records if 'began' in r) < records[0]['at'], 'all were ready before one measured'
    times = [r['at'] for r in records]
    assert times == sorted(times)


def test_one_that_dies_or_is_late_leaves_the_others_alone():
    errors, records = outcome(6, 'dies', 'late', 'a')
    assert errors[0] == 'the process ended with -11: CUDA error: no' and 'not ready after 5 s' in errors[1]
    assert errors[2] is None and [r['what'] for r in records] == ['a', 'a']


def test_what_is_not_done_is_ended_with_its_children():
    errors, records = outcome(4, 'slow', 'a')
    assert errors[0].startswith('not done when the 4 s') and records[0]['what'] == 'slow'
    deadline = time.monotonic() + 10
    while alive(records[1]['child']) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(records[1]['child'])


@pytest.mark.parametrize('check', ['wrong', 'stuck'])
def test_without_its_check_nothing_is_measured(check):
    errors, records = outcome(60 if check == 'wrong' else 3, check, 'a')
    assert records == [] and errors[1].startswith('not measured, because of the check: ' + (errors[0] or '?'))
    assert errors[0] == ('the operator is wrong' if check == 'wrong' else 'not ready after 2 s')


def test_an_interrupt_ends_the_processes():
    found = []

    def on_record(job, record):
        found.append(record)
        if 'child' in record:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_part(part('slow'), 60, on_record, COMMAND)
    deadline = time.monotonic() + 10
    while alive(found[1]['child']) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(found[1]['child'])


def test_a_worker_ends_when_nobody_listens():
    """Whoever started it was killed: its stdin ends."""
    worker = subprocess.Popen(
        [sys.executable, '-m', 'iebn_zoo.studies.benchmark.gpu.worker'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    print(json.dumps(Job('layers', 'cpu').to_json()), file=worker.stdin, flush=True)
    assert json.loads(worker.stdout.readline()) == {'ready': True}
    worker.stdin.close()
    assert worker.wait(timeout=30) == 1


@pytest.mark.parametrize('program, seconds, error, log', [
    ('print("fine")', 60, None, 'fine\n'),
    ('import sys; print("bad"); sys.exit(3)', 60, 'exit code 3', 'bad\n'),
    ('import time; print("half", flush=True); time.sleep(600)', 2, 'not done when its 2 s were over', 'half\n'),
])
def test_a_command_with_a_limit(tmp_path, capsys, program, seconds, error, log):
    outcome = run([sys.executable, '-c', program], seconds, tmp_path / 'log', os.environ)
    assert outcome.error == error and (tmp_path / 'log').read_text() == log and outcome.seconds < 30
    assert capsys.readouterr().out == log
