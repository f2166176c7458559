"""The bar for people at a terminal, the lines of a log: for the first process alone."""
import fcntl
import io
import os
import select
import struct
import sys
import termios
import threading

from iebn_zoo.util.progress import SECONDS_PER_LINE, Progress


def shown(items=3, done=2):
    progress = Progress(range(items), 'epoch 4', done)
    progress.bar.mininterval = 0
    seen = []
    for item in progress:
        progress.show(loss=0.5, img_s=123.4, top1='66.62')
        seen.append(item)
    assert seen == list(range(items))


def on_a_terminal(monkeypatch):
    """What ``shown`` writes to a pseudo terminal as stderr."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 120, 0, 0))  # rows and columns
    with open(slave, 'w', buffering=1) as stderr:
        monkeypatch.setattr(sys, 'stderr', stderr)
        shown()
        stderr.flush()
        text = b''
        while select.select([master], [], [], 0.5)[0]:  # the kernel passes it on in its own time
            text += os.read(master, 1 << 16)
    os.close(master)
    return text.decode()


def test_a_terminal_sees_title_position_and_values(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    text = on_a_terminal(monkeypatch)
    for part in ('epoch 4', '2/5', '5/5', 'loss=0.500', 'img/s=123', 'top-1=66.62'):
        assert part in text


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setenv('RANK', '1')
    assert on_a_terminal(monkeypatch) == ''


def in_a_log(monkeypatch, seconds):
    """What a pass of four items writes to stderr that is a file, with ``seconds`` between two of them."""
    now = [0.0]
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    stderr = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stderr)
    progress = Progress(range(4), 'epoch 4', 16)
    threads = threading.active_count()
    for _ in progress:
        now[0] += seconds
        progress.show(loss=0.5, img_s=123.4)
    assert threading.active_count() == threads
    return stderr.getvalue()


def test_a_short_pass_leaves_a_log_alone(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert in_a_log(monkeypatch, SECONDS_PER_LINE / 5) == ''


def test_a_long_pass_leaves_a_line_for_each_minute_in_a_log(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    lines = in_a_log(monkeypatch, SECONDS_PER_LINE / 2)
    assert lines.splitlines() == ['epoch 4: 90 %, 18/20 [01:00, ETA 01:00, loss=0.500, img/s=123]',
                                  'epoch 4: 100 %, 20/20 [02:00, ETA 00:00, loss=0.500, img/s=123]']
    assert lines.endswith('\n') and '\r' not in lines
    monkeypatch.setenv('RANK', '1')
    assert in_a_log(monkeypatch, SECONDS_PER_LINE) == ''
