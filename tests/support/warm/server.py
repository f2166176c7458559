"""Forks a process for each request of ``client.py``, from one that has imported what takes seconds.

    python server.py SOCKET

It imports torch, torchvision, matplotlib and other libraries that take long, but neither timm, nor huggingface_hub, nor
iebn_zoo: tests run programs that may not know iebn_zoo, and the client of the Hub reads HF_HOME and HF_ENDPOINT when it
is imported.

For each connection there are two processes: the program, and its keeper. The keeper passes the client's signals on,
kills the program when the client has gone (nobody can catch SIGKILL), and reports how the program ended.
"""
import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import types
from contextlib import suppress
from typing import List, Tuple

MODULES = ('numpy', 'torch', 'torch._dynamo', 'torch.distributed', 'torchvision', 'PIL.Image', 'matplotlib.figure',
           'matplotlib.backends.backend_agg', 'safetensors.torch', 'yaml', 'jinja2', 'tqdm')


def main(path: str) -> None:
    """Serve at the socket ``path`` until the process that started this one has gone."""
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()  # a collection in a fork would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers end by themselves
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(16)
    print('ready', flush=True)
    request = None
    while request is None:
        readable, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in readable:  # its end: nobody starts programs any more
            os._exit(0)
        connection, _ = server.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            request = keep(connection)
        connection.close()
    code = 1
    try:
        run(request)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException as e:
        sys.excepthook(type(e), e, e.__traceback__)
        code = -signal.SIGINT if isinstance(e, KeyboardInterrupt) else 1
    finish(code)


def finish(code: int) -> None:
    """End as Python ends, but for tearing down every module, which for those of a forked process takes a second."""
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                code = code or 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 255)


def keep(connection: socket.socket) -> dict:
    """Fork the program and return its request there; what stays here waits for it, reports, and exits."""
    request, descriptors = receive(connection)
    child = os.fork()
    if not child:
        if request['leads_session']:
            os.setsid()
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return request
    for descriptor in (0, 1, 2, *descriptors):  # a reader of the program's output must see its end
        with suppress(OSError):
            os.close(descriptor)
    ended = os.pidfd_open(child)
    while True:
        readable, _, _ = select.select([connection, ended], [], [])
        if ended in readable:
            break
        with suppress(OSError):
            data = connection.recv(1)
            if data:
                os.kill(child, data[0])
                continue
            os.kill(child, signal.SIGKILL)
            if request['leads_session']:  # whoever killed the client has probably killed its group
                os.killpg(child, signal.SIGKILL)
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    with suppress(OSError):
        connection.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def receive(connection: socket.socket) -> Tuple[dict, List[int]]:
    """Return the request and the three descriptors that come with it."""
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not data.endswith(b'\n'):
        more = connection.recv(1 << 16)
        if not more:  # the client has gone
            os._exit(0)
        data += more
    return json.loads(data), descriptors


def run(request: dict) -> None:
    """Be the program: its directory, variables, arguments, signals, and then its code."""
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(request['environment'])
    # this process may have inherited that a shell ignores Ctrl-C for what it starts in the background
    signal.signal(signal.SIGINT, signal.SIG_IGN if request['ignores_interrupt'] else signal.default_int_handler)
    tempfile.tempdir = None
    kind, what, arguments = request['kind'], request['what'], request['arguments']
    if kind == '-m':
        sys.path[0] = request['cwd']
        sys.argv = ['-m', *arguments]
        runpy.run_module(what, run_name='__main__', alter_sys=True)
    elif kind == '-c':
        sys.path[0] = ''
        sys.argv = ['-c', *arguments]
        sys.modules['__main__'] = program = types.ModuleType('__main__')
        exec(compile(what, '<string>', 'exec'), program.__dict__)
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(what))
        sys.argv = [what, *arguments]
        runpy.run_path(what, run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1])
