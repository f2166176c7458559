"""The loopback Hub refuses what the Hub refuses; a server that takes everything would let every test above it pass."""
import hashlib
import json
import urllib.error
import urllib.request

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.hub.loopback import READ_TOKEN, WRITE_TOKEN


def call(hub, method, path, body=b'', token=WRITE_TOKEN, headers=None):
    request = urllib.request.Request(hub.url + path, body, {'Authorization': f'Bearer {token}', **(headers or {})},
                                     method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


@pytest.fixture
def api(hub):
    return HfApi(hub.url, token=WRITE_TOKEN)


def test_lfs_checks_hash_and_size(hub, api):
    hub.add_repo('me/x', {})
    content = b'weights'
    oid = hashlib.sha256(content).hexdigest()
    assert call(hub, 'PUT', f'/lfs/{oid}', b'other weights')[0] == 400
    verify = '/me/x.git/info/lfs/objects/verify'
    assert call(hub, 'POST', verify, json.dumps({'oid': oid, 'size': 7}).encode())[0] == 404
    lines = [{'key': 'header', 'value': {'summary': 's'}},
             {'key': 'file', 'value': {'path': 'a.txt', 'content': 'YQ==', 'encoding': 'base64'}},
             {'key': 'lfsFile', 'value': {'path': 'm.safetensors', 'algo': 'sha256', 'oid': oid, 'size': 7}}]
    body = b'\n'.join(json.dumps(line).encode() for line in lines)
    assert call(hub, 'POST', '/api/models/me/x/commit/main', body)[0] == 400
    assert hub.files('me/x') == {}, 'a refused commit leaves nothing behind'
    assert call(hub, 'PUT', f'/lfs/{oid}', content)[0] == 200
    assert call(hub, 'POST', verify, json.dumps({'oid': oid, 'size': 8}).encode())[0] == 422
    assert call(hub, 'POST', verify, json.dumps({'oid': oid, 'size': 7}).encode())[0] == 200
    assert call(hub, 'POST', '/api/models/me/x/commit/main', body)[0] == 200
    assert hub.files('me/x') == {'a.txt': b'a', 'm.safetensors': content}
    (info,) = api.get_paths_info('me/x', ['m.safetensors', 'absent'])
    assert info.lfs.sha256 == oid and info.size == 7


def test_stale_parent_and_missing_deletion_change_nothing(hub, api):
    old = hub.add_repo('me/x', {'a.txt': b'a'})
    head = hub.commit('me/x', {'a.txt': b'b'})
    with pytest.raises(HfHubHTTPError, match='412'):
        api.create_commit('me/x', [CommitOperationAdd('a.txt', b'c')], commit_message='m', parent_commit=old.oid)
    with pytest.raises(RemoteEntryNotFoundError):
        api.create_commit('me/x', [CommitOperationAdd('n.txt', b'c'), CommitOperationDelete('no.txt')],
                          commit_message='m', parent_commit=head.oid)
    assert hub.commits('me/x')[-1] == head
    done = api.create_commit('me/x', [CommitOperationDelete('a.txt')], commit_message='m', parent_commit=head.oid)
    assert hub.commits('me/x')[-1].oid == done.oid and hub.files('me/x') == {} and hub.files('me/x', head.oid)


def test_who_may_see_and_write(hub, api, tmp_path):
    hub.add_repo('me/secret', {'a.txt': b'a'}, private=True)
    hub.add_repo('other/secret', {'a.txt': b'a'}, private=True)
    reader, stranger, nobody = (HfApi(hub.url, token=token) for token in (READ_TOKEN, 'hf_none', False))
    assert api.model_info('me/secret').private and reader.model_info('me/secret').sha == api.model_info('me/secret').sha
    for client, repo_id in ((nobody, 'me/secret'), (api, 'other/secret'), (api, 'me/absent')):
        with pytest.raises(RepositoryNotFoundError):
            client.model_info(repo_id)
    with pytest.raises(HfHubHTTPError, match='401'):
        stranger.model_info('me/secret')
    for client, repo_id in ((reader, 'me/new'), (api, 'other/new')):
        with pytest.raises(HfHubHTTPError, match='403'):
            client.create_repo(repo_id)
    api.create_repo('lab/new', private=True)
    assert hub.store.repos['lab/new'].private and api.create_repo('lab/new', exist_ok=True).repo_id == 'lab/new'
    with pytest.raises(HfHubHTTPError, match='409'):
        api.create_repo('lab/new')
    api.delete_repo('lab/new')
    assert 'lab/new' not in hub.store.repos


def test_resolve(hub, tmp_path):
    head = hub.add_repo('timm/x', {'config.json': b'{"a": 1}', 'sub/model.safetensors': b'0123456789'})
    kwargs = {'endpoint': hub.url, 'cache_dir': tmp_path, 'token': False}
    for path, content in hub.files('timm/x').items():
        with open(hf_hub_download('timm/x', path, **kwargs), 'rb') as file:
            assert file.read() == content
    assert hf_hub_download('timm/x', 'config.json', revision=head.oid, **kwargs).count(head.oid)
    resumed = call(hub, 'GET', '/timm/x/resolve/main/sub/model.safetensors', headers={'Range': 'bytes=7-'})
    assert resumed == (206, b'789')
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download('timm/x', 'absent', **kwargs)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download('timm/x', 'config.json', revision='absent', **kwargs)
    names = {entry.path for entry in HfApi(hub.url, token=False).list_repo_tree('timm/x', recursive=True)}
    assert names == {'.gitattributes', 'config.json', 'sub', 'sub/model.safetensors'}
    hub.corrupt('config.json')
    assert call(hub, 'GET', '/timm/x/resolve/main/config.json')[1] == b'{"a": 1|'
