"""The loopback Hub's endpoints: what each path of the Hub's API answers.

Every function takes (hub, request, *groups of its route) and returns a JSON-able object, or (status, headers, body).
Answers have the fields that huggingface_hub reads, under the names it reads them.
"""
import base64
import json
import re
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import parse_qs, unquote

from tests.support.hub.loopback_git import LFS_SUFFIXES, Blob, Commit, HubError, Repo

USER, ORGANIZATIONS = 'me', ('lab',)
Answer = Tuple[int, Dict[str, str], bytes]
_ROUTES: List[Tuple[str, 're.Pattern[str]', Callable[..., Any]]] = []
_REPO = r'([\w.-]+/[\w.-]+)'


def answer(hub: Any, request: Any, path: str) -> Answer:
    """Route a request; raises HubError for whatever the Hub would refuse."""
    method = 'GET' if request.command == 'HEAD' else request.command
    for route_method, pattern, function in _ROUTES:
        match = pattern.fullmatch(path)
        if route_method == method and match:
            result = function(hub, request, *(unquote(g) if g is not None else None for g in match.groups()))
            if isinstance(result, tuple):
                return result
            return 200, {'Content-Type': 'application/json'}, json.dumps(result).encode()
    raise HubError(404, f'the loopback Hub has no {method} {path}')


def _route(method: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _ROUTES.append((method, re.compile(pattern), function))
        return function
    return register


# who may do what

def _readable(hub: Any, request: Any, repo_id: str) -> Repo:
    repo = hub.store.repos.get(repo_id)
    if repo is None or (repo.private and not (request.role and _is_ours(repo.owner))):
        # the Hub does not tell "private" from "absent", and asks the anonymous to log in first
        status, message = (404, 'Repository not found') if request.role else (401, 'Invalid username or password.')
        raise HubError(status, message, 'RepoNotFound')
    return repo


def _is_ours(owner: str) -> bool:
    return owner == USER or owner in ORGANIZATIONS


def _require_write(request: Any, owner: Optional[str] = None) -> None:
    """A token that may write at all; with ``owner``, one that may write there."""
    if request.role is None:
        raise HubError(401, 'Invalid username or password.')
    if request.role != 'write':
        raise HubError(403, 'Forbidden: you must use a write token to upload to a repository.')
    if owner is not None and not _is_ours(owner):
        raise HubError(403, f'You don\'t have the rights to write under the namespace "{owner}".')


# accounts and repositories

@_route('GET', '/api/whoami-v2')
def _whoami(hub: Any, request: Any) -> Any:
    if request.role is None:
        raise HubError(401, 'Invalid username or password.')
    auth = {'type': 'access_token', 'accessToken': {'displayName': 'tests', 'role': request.role}}
    return {'type': 'user', 'id': '1', 'name': USER, 'fullname': 'Me', 'auth': auth,
            'orgs': [{'type': 'org', 'id': str(i), 'name': name} for i, name in enumerate(ORGANIZATIONS)]}


@_route('POST', '/api/repos/create')
def _create(hub: Any, request: Any) -> Any:
    spec = request.json()
    owner = spec.get('organization') or USER
    _require_write(request, owner)
    repo_id = f'{owner}/{spec["name"]}'
    url = f'{hub.url}/{repo_id}'
    # huggingface_hub 1.x sends private, 2.x visibility
    private = bool(spec.get('private')) or spec.get('visibility') == 'private'
    try:
        hub.store.create(repo_id, private)
    except HubError as e:
        raise HubError(e.status, e.message, url=url) from None
    return {'url': url, 'name': repo_id}


@_route('DELETE', '/api/repos/delete')
def _delete(hub: Any, request: Any) -> Any:
    spec = request.json()
    owner = spec.get('organization') or USER
    repo = _readable(hub, request, f'{owner}/{spec["name"]}')
    _require_write(request, owner)
    del hub.store.repos[repo.id]
    return {}


@_route('POST', '/api/validate-yaml')
def _validate_yaml(hub: Any, request: Any) -> Any:
    content = request.json()['content']
    block = re.match(r'---\s*\n(.*?)\n---\s*(\n|$)', content, re.DOTALL)
    if content.startswith('---') and block is None:
        errors = [{'message': 'the metadata block is not closed'}]
        raise HubError(400, 'Invalid metadata', errors=errors, warnings=[])
    if block and re.search(r'^license: *\S+ +\S', block.group(1), re.MULTILINE):
        errors = [{'message': '"license" must be one of the known identifiers'}]
        raise HubError(400, 'Invalid metadata', errors=errors, warnings=[])
    return {'errors': [], 'warnings': [] if block else [{'message': 'empty or missing yaml metadata in repo card'}]}


@_route('GET', f'/api/models/{_REPO}(?:/revision/([^/]+))?')
def _info(hub: Any, request: Any, repo_id: str, revision: Optional[str]) -> Any:
    repo = _readable(hub, request, repo_id)
    commit = repo.resolve(revision or 'main')
    siblings = []
    for path, blob in sorted(commit.files.items()):
        sibling: Dict[str, Any] = {'rfilename': path}
        if 'blobs' in request.query:
            sibling.update(size=len(blob.content), blobId=blob.git_oid)
            if blob.lfs:
                sibling['lfs'] = blob.lfs_info()
        siblings.append(sibling)
    return {'_id': '1', 'id': repo.id, 'modelId': repo.id, 'author': repo.owner, 'sha': commit.oid,
            'private': repo.private, 'gated': False, 'disabled': False, 'downloads': 0, 'likes': 0, 'tags': [],
            'lastModified': '2026-01-01T00:00:00.000Z', 'createdAt': '2026-01-01T00:00:00.000Z', 'siblings': siblings}


@_route('GET', f'/api/models/{_REPO}/refs')
def _refs(hub: Any, request: Any, repo_id: str) -> Any:
    repo = _readable(hub, request, repo_id)
    entries = [{'name': name.removeprefix('refs/heads/'), 'ref': name, 'targetCommit': oid}
               for name, oid in repo.refs.items()]
    return {'branches': [e for e in entries if e['ref'].startswith('refs/heads/')], 'tags': [], 'converts': [],
            'pullRequests': [e for e in entries if e['ref'].startswith('refs/pr/')]}


@_route('GET', f'/api/models/{_REPO}/commits/([^/]+)')
def _commits(hub: Any, request: Any, repo_id: str, revision: str) -> Any:
    return [{'id': c.oid, 'title': c.title, 'message': '', 'authors': [{'user': USER}],
             'date': '2026-01-01T00:00:00.000Z'} for c in _readable(hub, request, repo_id).history(revision)[::-1]]


# files

@_route('GET', f'/api/models/{_REPO}/tree/([^/]+)(?:/(.+))?')
def _tree(hub: Any, request: Any, repo_id: str, revision: str, folder: Optional[str]) -> Any:
    files = _readable(hub, request, repo_id).resolve(revision).files
    prefix = f'{folder}/' if folder else ''
    entries: Dict[str, Any] = {}
    for path, blob in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix):].split('/')
        for depth in range(1, len(parts)) if request.query.get('recursive') == 'true' else [1] * (len(parts) > 1):
            parent = prefix + '/'.join(parts[:depth])
            entries.setdefault(parent, {'type': 'directory', 'path': parent, 'size': 0, 'oid': '0' * 40})
        if len(parts) == 1 or request.query.get('recursive') == 'true':
            entries[path] = blob.tree_entry(path)
    if folder and not entries:
        raise HubError(404, f'{folder} does not exist on "{revision}"', 'EntryNotFound')
    return list(entries.values())


@_route('POST', f'/api/models/{_REPO}/paths-info/([^/]+)')
def _paths_info(hub: Any, request: Any, repo_id: str, revision: str) -> Any:
    files = _readable(hub, request, repo_id).resolve(revision).files
    paths = parse_qs(request.body.decode()).get('paths', [])
    return [files[path].tree_entry(path) for path in paths if path in files]


@_route('GET', f'/{_REPO}/resolve/([^/]+)/(.+)')
def _resolve(hub: Any, request: Any, repo_id: str, revision: str, path: str) -> Answer:
    commit = _readable(hub, request, repo_id).resolve(revision)
    if path not in commit.files:
        error = {'X-Error-Code': 'EntryNotFound', 'X-Error-Message': 'Entry not found', 'X-Repo-Commit': commit.oid}
        return 404, error, b'Entry not found'
    blob = commit.files[path]
    content = bytearray(blob.content)
    if path in hub.corrupted:
        content[hub.corrupted[path]] ^= 1
    headers = {'X-Repo-Commit': commit.oid, 'ETag': f'"{blob.etag}"', 'Accept-Ranges': 'bytes',
               'Content-Type': 'application/octet-stream'}
    if blob.lfs:
        headers.update({'X-Linked-Etag': f'"{blob.sha256}"', 'X-Linked-Size': str(len(content))})
    resumed = re.fullmatch(r'bytes=(\d+)-', request.headers.get('Range', ''))
    if resumed:
        start = int(resumed.group(1))
        headers['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
        return 206, headers, bytes(content[start:])
    return 200, {**headers, 'Content-Length': str(len(content))}, bytes(content)


# writing

@_route('POST', f'/api/models/{_REPO}/preupload/([^/]+)')
def _preupload(hub: Any, request: Any, repo_id: str, revision: str) -> Any:
    repo = _readable(hub, request, repo_id)
    _require_write(request, None if 'create_pr' in request.query else repo.owner)
    known = repo.resolve(revision).files
    ignored = known['.gitignore'].content.decode().split() if '.gitignore' in known else []
    answers = []
    for file in request.json()['files']:
        path = file['path']
        entry = {'path': path, 'uploadMode': 'lfs' if path.endswith(LFS_SUFFIXES) else 'regular',
                 'shouldIgnore': any(fnmatchcase(path, pattern) for pattern in ignored)}
        if path in known:
            entry['oid'] = known[path].etag
        answers.append(entry)
    return {'files': answers}


@_route('POST', f'/{_REPO}.git/info/lfs/objects/batch')
def _lfs_batch(hub: Any, request: Any, repo_id: str) -> Any:
    repo = _readable(hub, request, repo_id)
    batch = request.json()
    # without a ref it is for a pull request, which needs no right on the branch
    _require_write(request, repo.owner if 'ref' in batch else None)
    objects = []
    for item in batch['objects']:
        entry = {'oid': item['oid'], 'size': item['size']}
        if item['oid'] not in hub.store.lfs:
            entry['actions'] = {'upload': {'href': f'{hub.url}/lfs/{item["oid"]}'},
                                'verify': {'href': f'{hub.url}/{repo.id}.git/info/lfs/objects/verify'}}
        objects.append(entry)
    return {'transfer': 'basic', 'objects': objects}


@_route('PUT', '/lfs/([0-9a-f]{64})')
def _lfs_put(hub: Any, request: Any, oid: str) -> Any:
    # a signed storage URL on the real Hub: it takes no token
    if hub.lfs_puts_to_drop:
        hub.lfs_puts_to_drop -= 1
    else:
        hub.store.put_lfs(oid, request.body)
    return {}


@_route('POST', f'/{_REPO}.git/info/lfs/objects/verify')
def _lfs_verify(hub: Any, request: Any, repo_id: str) -> Any:
    _readable(hub, request, repo_id)
    _require_write(request)
    item = request.json()
    hub.store.verify_lfs(item['oid'], item['size'])
    return {}


@_route('POST', f'/api/models/{_REPO}/commit/([^/]+)')
def _commit(hub: Any, request: Any, repo_id: str, revision: str) -> Any:
    if hub.before_commit is not None:
        callback, hub.before_commit = hub.before_commit, None
        callback()
    repo = _readable(hub, request, repo_id)
    create_pr = 'create_pr' in request.query
    _require_write(request, None if create_pr else repo.owner)
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = lines[0]['value']
    add: Dict[str, Blob] = {}
    delete = []
    for line in lines[1:]:
        value = line['value']
        if line['key'] == 'file':
            add[value['path']] = Blob(base64.b64decode(value['content']), lfs=False)
        elif line['key'] == 'lfsFile':
            if value['oid'] not in hub.store.lfs:
                raise HubError(400, f'LFS object of {value["path"]} is missing: upload it before the commit')
            add[value['path']] = Blob(hub.store.lfs[value['oid']], lfs=True)
        elif line['key'] == 'deletedFile':
            delete.append(value['path'])
        else:
            raise HubError(400, f'unknown operation {line["key"]}')
    commit, number = hub.store.commit(repo, revision, header['summary'], add=add, delete=delete,
                                      parent=header.get('parentCommit'), create_pr=create_pr)
    return _committed(hub, repo, commit, number)


def _committed(hub: Any, repo: Repo, commit: Commit, number: Optional[int]) -> Dict[str, Any]:
    done = {'success': True, 'commitOid': commit.oid, 'commitUrl': f'{hub.url}/{repo.id}/commit/{commit.oid}',
            'hookOutput': ''}
    return {**done, 'pullRequestUrl': f'{hub.url}/{repo.id}/discussions/{number}'} if number else done
