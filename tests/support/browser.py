"""Headless Chromium by the WebDriver protocol, with the standard library alone."""
import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Optional

FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
         '--window-size=1200,1300')
_ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the key that the protocol gives to elements
ENTER = '\ue007'


def missing() -> Optional[str]:
    """Return the first program that is not installed."""
    return next((name for name in ('chromium', 'chromedriver') if shutil.which(name) is None), None)


class BrowserError(Exception):
    """The driver has answered with an error."""


class Browser:
    """A browser with an empty profile in ``home``; use it as a context manager."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.home.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> 'Browser':
        log = self.home / 'driver.log'
        with log.open('w') as file:
            self.process = subprocess.Popen(['chromedriver', '--port=0'], stdout=file, stderr=subprocess.STDOUT)
        try:
            port = wait(lambda: next((line.rpartition('on port ')[2].strip('. \n') for line in
                                      log.read_text().splitlines() if 'successfully on port' in line), None), 60)
            self.url = f'http://127.0.0.1:{port}/session'
            options = {'args': [*FLAGS, f"--user-data-dir={self.home / 'profile'}"], 'binary': shutil.which('chromium')}
            session = self._call('POST', '', {'capabilities': {'alwaysMatch': {'goog:chromeOptions': options}}})
            self.url += f"/{session['sessionId']}"
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call('DELETE', '')
        finally:
            self.process.terminate()
            self.process.wait(30)

    def open(self, url: str) -> None:
        self._call('POST', '/url', {'url': url})

    def find(self, css: str, seconds: float = 60) -> str:
        """Return the element, as soon as there is one."""
        def found() -> Optional[str]:
            try:
                return self._call('POST', '/element', {'using': 'css selector', 'value': css})[_ELEMENT]
            except BrowserError:
                return None
        return wait(found, seconds)

    def click(self, css: str) -> None:
        self._call('POST', f'/element/{self.find(css)}/click', {})

    def type(self, css: str, text: str) -> None:
        """Type into an element; into one for files: choose the file."""
        self._call('POST', f'/element/{self.find(css)}/value', {'text': text})

    def script(self, code: str) -> Any:
        """Return what the JavaScript returns."""
        return self._call('POST', '/execute/sync', {'script': code, 'args': []})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call('GET', '/screenshot')))

    def _call(self, method: str, path: str, body: Optional[dict] = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {'Content-Type': 'application/json'}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)['value']
        except urllib.error.HTTPError as e:
            raise BrowserError(json.load(e)['value'].get('message', '')) from e


def wait(condition: Callable[[], Any], seconds: float) -> Any:
    """Return the first value of ``condition`` that is true.

    Raises:
        TimeoutError: There is none for ``seconds``.
    """
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f'nothing after {seconds} seconds')
        time.sleep(0.1)
