"""The bar: for people at a terminal, and there for the first process alone."""
import fcntl
import io
import os
import select
import struct
import sys
import termios

from iebn_zoo.util.progress import Progress


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


def test_a_file_or_a_pipe_gets_nothing(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stderr)
    shown()
    assert stderr.getvalue() == ''
