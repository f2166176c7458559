"""Stands for a Python program that ``server.py`` runs: passes on its streams, signals and exit code.

    python -IS client.py SOCKET VARIABLES [-m MODULE | -c CODE | SCRIPT] [ARGUMENT ...]

Where a forked process could not be what was asked for (an option of the interpreter, a variable that Python or torch
reads when it starts, a limit of the system, a terminal), it becomes the real interpreter.
"""
import json
import os
import resource
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)

# variables that are read at start or import by Python, the C library, the loader, and what the server imports
AT_START = ('PYTHON', 'LC_', 'LANG', 'LD_', 'MALLOC_', 'GLIBC_', 'OMP_', 'GOMP_', 'KMP_', 'MKL_', 'OPENBLAS_', 'TORCH',
            'PYTORCH', 'TRITON_', 'CUDA_', 'MPL', 'HOME', 'XDG_', 'TZ', 'ATEN_', 'DNNL_', 'ONEDNN_', 'CXX', 'CC')
LIMITS = sorted(name for name in dir(resource) if name.startswith('RLIMIT_'))


def snapshot() -> dict:
    """Return what a forked process shares with the server and cannot have of its own."""
    variables = {key: value for key, value in os.environ.items() if key.startswith(AT_START)}
    limits = [list(resource.getrlimit(getattr(resource, name))) for name in LIMITS]
    os.umask(mask := os.umask(0))
    # whether SIGINT is ignored stands in the request: the server sets it in the program
    ignored = [number for number in PASSED_ON if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN]
    return {'variables': variables, 'limits': limits, 'mask': mask, 'ignored': ignored}


def may_be_forked(argv: list, expected: dict) -> bool:
    """Whether the server can run this program as the interpreter would."""
    if not argv or (argv[0].startswith('-') and argv[0] not in ('-m', '-c')):
        return False
    try:
        streams = [os.fstat(descriptor) for descriptor in range(3)]
    except OSError:  # a closed one
        return False
    if len(os.listdir('/proc/self/fd')) > len(streams) + 1:  # subprocess's pass_fds; one is that of this directory
        return False
    return not any(os.isatty(descriptor) for descriptor in range(3)) and snapshot() == expected


def run(path: str, argv: list) -> int:
    """Let the server run the program; return its exit code, negative for a signal."""
    kind, what, arguments = (argv[0], argv[1], argv[2:]) if argv[0].startswith('-') else ('script', argv[0], argv[1:])
    request = {'kind': kind, 'what': what, 'arguments': arguments, 'cwd': os.getcwd(), 'environment': dict(os.environ),
               'ignores_interrupt': signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
               'leads_session': os.getsid(0) == os.getpid()}
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    data = json.dumps(request).encode() + b'\n'
    sent = socket.send_fds(connection, [data], [0, 1, 2])
    connection.sendall(data[sent:])
    for number in PASSED_ON:  # a signal before that ends the client, and with it the program
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, frame: connection.send(bytes([received])))
    for descriptor in range(3):  # the program's alone now: a pipe ends when the program closes it
        os.close(descriptor)
    answer = b''
    while part := connection.recv(64):
        answer += part
    return int(answer)


if __name__ == '__main__':
    socket_path, expected_path, *program = sys.argv[1:]
    if program[:1] == ['-Xfrozen_modules=off']:  # with which Jupyter starts kernels, for their debugger
        del program[0]
    with open(expected_path) as file:
        known = json.load(file)
    if not may_be_forked(program, known):
        os.execv(sys.executable, [sys.executable, *program])
    code = run(socket_path, program)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
