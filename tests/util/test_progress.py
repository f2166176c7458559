"""The bar for people at a terminal, the lines of a log: for the first process alone."""
import errno
import fcntl
import io
import os
import select
import struct
import sys
import termios

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


def in_a_log(monkeypatch, seconds, items=range(4), done=16, stderr=None):
    """What a pass of four items writes to stderr that is a file, with ``seconds`` between two of them."""
    now = [0.0]
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    stderr = stderr or io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stderr)
    progress = Progress(items, 'epoch 4', done)
    for _ in progress:
        now[0] += seconds
        progress.show(loss=0.5, img_s=123.4)
    assert 'monitor' not in vars(type(progress.bar))  # no thread of tqdm's: a fork would lose it
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


def test_a_pass_of_unknown_length_has_no_percentage(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    lines = in_a_log(monkeypatch, SECONDS_PER_LINE, iter(range(2)), 0)
    assert lines.splitlines() == ['epoch 4: 1 [01:00, loss=0.500, img/s=123]',
                                  'epoch 4: 2 [02:00, loss=0.500, img/s=123]']


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, 'no space left on device')


def test_a_log_that_cannot_be_written_does_not_end_the_pass(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert in_a_log(monkeypatch, SECONDS_PER_LINE, stderr=Full()) == ''


def test_a_pass_that_was_left_open_moves_no_cursor(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    left = iter(Progress(range(3), 'left'))
    next(left)
    lines = in_a_log(monkeypatch, SECONDS_PER_LINE)
    assert len(lines.splitlines()) == 4 and '\x1b' not in lines
