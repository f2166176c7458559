"""Tokens and passwords stay out of messages, whatever the client of the Hub writes into its errors."""
import traceback

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from iebn_zoo.prediction import choice
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.hub_token import find_token, harmless, hide, scrub
from iebn_zoo.weights import create, repository

SECRET = 'hf_aSecretThatNobodyMaySee'


@pytest.mark.parametrize('text, expected', [
    (f'401 for {SECRET}.', '401 for <token>.'),
    ("Illegal header value b'Bearer hf_ODD\\x0bTOKEN'", "Illegal header value b'Bearer <token>"),
    ('no http://user:PASSW0RD@proxy:8080/x', 'no http://proxy:8080/x'),
    ('a plain line', 'a plain line')])
def test_what_is_shown(monkeypatch, text, expected):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    assert scrub(text, SECRET) == hide(text) == expected


def test_a_cause_that_shows_the_token_is_not_kept(monkeypatch):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    inner, outer = ValueError(f'header Bearer {SECRET}'), OSError('cannot')
    assert harmless(outer) is outer
    outer.__cause__ = inner
    assert harmless(outer) is None and harmless(inner) is None


DOWNLOAD = (repository, 'hf_hub_download', lambda: repository._download('hf-hub:me/x', 'me/x', 'config.json', None))


@pytest.mark.parametrize('module, name, call, kind', [
    (*DOWNLOAD, RuntimeError), (*DOWNLOAD, LocalEntryNotFoundError),
    (choice, 'get_hf_file_metadata', lambda: choice._metadata('hf-hub:me/x', 'me/x', 'config.json', None),
     RuntimeError),
    (create.timm, 'create_model', lambda: create.build('resnet18', 'resnet18', True, {}), RuntimeError)])
def test_no_download_shows_the_token(monkeypatch, module, name, call, kind):
    def fail(*args, **kwargs):
        raise kind(f'the proxy http://user:PASSW0RD@p got Bearer {SECRET}')

    monkeypatch.setattr(module, name, fail)
    monkeypatch.setenv('HF_TOKEN', SECRET)
    with pytest.raises(IEBNZooError, match='^cannot load ') as e:
        call()
    assert not any(word in ''.join(traceback.format_exception(e.value)) for word in (SECRET, 'PASSW0RD'))


@pytest.mark.parametrize('token', ['hf_SECRET\x0bTOKEN', 'hf_\u00e9'])
def test_a_token_that_no_header_takes_is_refused_before_a_download(monkeypatch, token):
    monkeypatch.setattr(repository, 'hf_hub_download', lambda *args, **kwargs: pytest.fail('a request was made'))
    monkeypatch.setenv('HF_TOKEN', token)
    for call in (find_token, lambda: repository._download('hf-hub:me/x', 'me/x', 'config.json', None)):
        with pytest.raises(IEBNZooError, match='the token holds characters that no token has'):
            call()
