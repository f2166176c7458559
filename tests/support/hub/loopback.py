"""A Hugging Face Hub on 127.0.0.1, for tests: real HTTP and real commits, as huggingface_hub 1.x and 2.x speak to it.

    with LoopbackHub() as hub:
        hub.add_repo('timm/resnet50.a1_in1k', {'config.json': b'...', 'model.safetensors': b'...'})
        subprocess.run([sys.executable, ...], env={**os.environ, **hub.env(home, WRITE_TOKEN)})
        hub.files('me/x'), hub.commits('me/x'), hub.requests

Access is as on the Hub: WRITE_TOKEN acts as ``me``, member of ``lab``; READ_TOKEN reads what ``me`` may read; any other
token is a 401, and a private repository does not exist for those who may not see it.
Model repositories only; plain LFS, no Xet. The client reads its environment at import, hence the processes.
"""
import contextlib
import json
import os
import re
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List, Mapping, Optional
from urllib.parse import parse_qs, urlsplit

from tests.support.hub import loopback_api
from tests.support.hub.loopback_git import LFS_SUFFIXES, Blob, Commit, HubError, Store

WRITE_TOKEN = 'hf_loopbackWriteTokenOfMe'
READ_TOKEN = 'hf_loopbackReadTokenOfMe'
_ROLES = {WRITE_TOKEN: 'write', READ_TOKEN: 'read'}


@dataclass(frozen=True)
class Request:
    """One request as the server met it. Tokens are not kept, only whether there was one."""

    method: str
    path: str
    authorized: bool
    status: int


@dataclass
class Fault:
    """What shall go wrong with the next ``times`` requests that match."""

    method: str
    pattern: str
    times: int
    act: Callable[['_Handler'], None]


@dataclass
class Spoiled:
    """What becomes of the answers to the next ``times`` requests that match; ``done``: they are carried out before."""

    method: str
    pattern: str
    how: str
    done: bool
    times: int
    seconds: float


class LoopbackHub:
    """The server, from ``with`` to the end of its block, and a Python door to what it holds."""

    def __init__(self):
        self.store = Store()
        self.requests: List[Request] = []
        self.corrupted: Dict[str, int] = {}
        self.before_commit: Optional[Callable[[], None]] = None
        self.lfs_puts_to_drop = 0
        self.closing = threading.Event()
        self._faults: List[Fault] = []
        self._spoiled: List[Spoiled] = []
        self._server = _Server(('127.0.0.1', 0), _Handler)
        self._server.hub = self
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'

    def __enter__(self) -> 'LoopbackHub':
        threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()

    def env(self, home: Any, token: Optional[str] = None) -> Dict[str, str]:
        """Variables for a client process: this server, a cache of its own under ``home``, and no other login."""
        env = {'HF_ENDPOINT': self.url, 'HF_HOME': str(home), 'HF_HUB_DISABLE_XET': '1'}
        return {**env, 'HF_TOKEN': token} if token else env

    # what is stored

    def add_repo(self, repo_id: str, files: Mapping[str, bytes], private: bool = False) -> Commit:
        """Make a repository that holds ``files``; returns the commit that added them."""
        self.store.create(repo_id, private)
        return self.commit(repo_id, files, message='add files')

    def commit(self, repo_id: str, files: Mapping[str, bytes], delete: 'tuple[str, ...]' = (),
               message: str = 'somebody else was here') -> Commit:
        """Commit to main, as somebody with another client would."""
        blobs = {path: Blob(content, path.endswith(LFS_SUFFIXES)) for path, content in files.items()}
        return self.store.commit(self.store.repos[repo_id], 'main', message, add=blobs, delete=delete)[0]

    def files(self, repo_id: str, revision: str = 'main') -> Dict[str, bytes]:
        """Contents at ``revision`` (branch, refs/pr/N or full oid), without the .gitattributes every repository has."""
        files = self.store.repos[repo_id].resolve(revision).files
        return {path: blob.content for path, blob in files.items() if path != '.gitattributes'}

    def commits(self, repo_id: str, revision: str = 'main') -> List[Commit]:
        """Commits of ``revision``, oldest first; the first is the Hub's own initial commit."""
        return self.store.repos[repo_id].history(revision)

    def count(self, method: str, pattern: str) -> int:
        """How many requests of ``method`` had a path that ``pattern`` (a regular expression) finds."""
        return sum(r.method == method and re.search(pattern, r.path) is not None for r in self.requests)

    # what shall go wrong

    def fail(self, method: str, pattern: str, status: int, message: str = 'injected failure', times: int = 1,
             **body: Any) -> None:
        """Answer the next ``times`` requests of ``method`` whose path matches ``pattern`` with ``status``."""
        def act(handler: '_Handler') -> None:
            raise HubError(status, message, **body)
        self._faults.append(Fault(method, pattern, times, act))

    def stall(self, method: str, pattern: str, seconds: float, times: int = 1) -> None:
        """Leave matching requests without an answer for ``seconds``, then answer 504 as a gateway would."""
        def act(handler: '_Handler') -> None:
            self.closing.wait(seconds)
            raise HubError(504, 'Gateway Time-out')
        self._faults.append(Fault(method, pattern, times, act))

    def spoil(self, method: str, pattern: str, how: str, done: bool, times: int = 1, seconds: float = 20) -> None:
        """Let no whole answer to matching requests arrive.

        Args:
            method: HTTP method.
            pattern: Regular expression that finds something in the path.
            how: ``'reset'``, the connection is; ``'half'`` of the body, then the end; ``'hang'``, nothing for
                ``seconds``; ``'drip'``, a byte now and then for ``seconds``.
            done: Whether the request is carried out all the same, as when an answer is lost on its way back.
            times: How many requests.
            seconds: See ``how``; a client that has left is not waited for.
        """
        self._spoiled.append(Spoiled(method, pattern, how, done, times, seconds))

    def corrupt(self, path: str, offset: int = -1) -> None:
        """Serve ``path`` of any repository with one bit of the byte at ``offset`` flipped; its announced hash stays."""
        self.corrupted[path] = offset

    def heal(self) -> None:
        """Take back every fault and forget the requests seen so far."""
        self._spoiled = []
        self._faults, self.corrupted, self.before_commit, self.lfs_puts_to_drop = [], {}, None, 0
        self.requests = []

    def strike(self, handler: '_Handler') -> None:
        """Let the first fault that matches this request act."""
        for fault in self._faults:
            if fault.times and fault.method == handler.command and re.search(fault.pattern, handler.path):
                fault.times -= 1
                fault.act(handler)
                return


    def spoiled(self, handler: '_Handler') -> Optional[Spoiled]:
        """What becomes of the answer to this request."""
        for spoiled in self._spoiled:
            if spoiled.times and spoiled.method == handler.command and re.search(spoiled.pattern, handler.path):
                spoiled.times -= 1
                return spoiled
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection open must not hold up the end of the test
    request_queue_size = 64
    hub: LoopbackHub

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        self.connections = [c for c in getattr(self, 'connections', []) if c.fileno() >= 0] + [request]
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):  # not of a connection that either side has cut
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """Cut what clients keep open; else a server that is gone would go on answering them."""
        for connection in getattr(self, 'connections', []):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: _Server
    wbufsize = 1 << 16  # one packet an answer: with none, Nagle and delayed ACK cost 40 ms a request
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        hub = self.server.hub
        status, headers, body = 500, {}, b''
        self.token_sent = 'Authorization' in self.headers
        self.body = self._read_body()
        spoiled = hub.spoiled(self)
        if spoiled is not None and not spoiled.done:
            hub.requests.append(Request(self.command, self.path, self.token_sent, 0))
            self._spoil(spoiled, 200, {}, b'{"lost": true}')
            return
        try:
            hub.strike(self)
            self.role = self._role()
            url = urlsplit(self.path)
            self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
            status, headers, body = loopback_api.answer(hub, self, url.path)
        except HubError as e:
            status, body = e.status, json.dumps({'error': e.message, **e.body}).encode()
            headers = {'Content-Type': 'application/json', 'X-Error-Message': e.message.replace('\n', ' ')}
            if e.code:
                headers['X-Error-Code'] = e.code
        except Exception as e:  # a bug in this server must show as such, not as a dropped connection
            body = repr(e).encode()
        hub.requests.append(Request(self.command, self.path, self.token_sent, status))
        if spoiled is not None:
            self._spoil(spoiled, status, headers, body)
        else:
            self._answer(status, headers, body)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {'Content-Length': str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def _spoil(self, spoiled: Spoiled, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.close_connection = True
        if spoiled.how == 'half':
            self.send_response(status)
            for name, value in {**headers, 'Content-Length': str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:len(body) // 2])
        elif spoiled.how == 'drip':
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header('Content-Length', '1000000')
                self.end_headers()
                for _ in range(int(spoiled.seconds / 0.05)):
                    self.wfile.write(b' ')
                    self.wfile.flush()
                    if self.server.hub.closing.wait(0.05):
                        break
        elif spoiled.how == 'hang':
            self.server.hub.closing.wait(spoiled.seconds)
        if spoiled.how in ('hang', 'reset'):
            # closed with nothing lingering, a socket says RST and not the polite end of a stream
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            os.close(self.connection.detach())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def json(self) -> Any:
        return json.loads(self.body)

    def _role(self) -> Optional[str]:
        if not self.token_sent:
            return None
        scheme, _, token = self.headers['Authorization'].partition(' ')
        if scheme != 'Bearer' or token not in _ROLES:
            raise HubError(401, 'Invalid credentials in Authorization header')
        return _ROLES[token]

    def _read_body(self) -> bytes:
        if self.headers.get('Transfer-Encoding', '').lower() != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length') or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b';')[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(chunks)

    def log_message(self, *args: object) -> None:
        pass

