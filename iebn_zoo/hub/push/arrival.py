"""Proves that a commit on the Hub holds what was pushed, and that timm loads it from there.

It compares the Hub's own digests (paths-info) with the local files, and then the bytes that the Hub serves: a fresh
process with an empty cache runs ``verify_repository`` on the commit, as anybody may. The cache must be empty because
the client serves a cached copy in silence when the Hub answers 401 or 404. The process must be fresh because the client
reads where its cache is when it is imported. The hash is needed because the client compares only sizes.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from huggingface_hub import HfApi

from iebn_zoo.hub.package.check import LocalFile
from iebn_zoo.hub.push.client import HubUnreachable, ask, commit_of, make_api, repo_info
from iebn_zoo.hub.push.patience import session_timeout
from iebn_zoo.hub.push.verify import WrongBytes, difference, remote_files, verify_repository
from iebn_zoo.util.errors import IEBNZooError, kind_and_line
from iebn_zoo.util.hub_token import scrub
from iebn_zoo.util.resources import ROOT

# with -c instead of -m the process also finds an iebn_zoo that is not installed, after all installed packages
_CHILD = 'import sys; sys.path.append(sys.argv[3]); from iebn_zoo.hub.push.arrival import child; child(*sys.argv[1:3])'


def check_arrival(
        api: HfApi,
        repo_id: str,
        commit: str,
        files: Sequence[LocalFile],
        deleted: Sequence[str] = (),
        ref: Optional[str] = None,
) -> float:
    """Check a commit on the Hub against the local files, up to the logits.

    Args:
        api: Client with the token to read by.
        repo_id: ``OWNER/NAME``.
        commit: Full commit oid.
        files: Files that the commit must hold.
        deleted: Paths that the commit must not hold.
        ref: Pull request that must point to it, such as ``'refs/pr/1'``.

    Returns:
        Largest absolute difference between the golden logits and those of the model loaded from the Hub.

    Raises:
        IEBNZooError: A file does not match; the message names it.
    """
    if ref is not None:
        head = ask(api, repo_id, 'verifying', lambda: commit_of(repo_info(api, repo_id, ref)), note=_unverified(commit))
        if head != commit:
            raise IEBNZooError(f'{ref} of {repo_id} points to {head}, not to the commit {commit} just made.\n'
                               f'Look at the pull request, then push again.')
    wrong = difference_on_hub(api, repo_id, commit, files, deleted, note=_unverified(commit))
    if wrong is not None:
        raise _mismatch(api, repo_id, commit, *wrong)
    return _load_in_fresh_cache(api, repo_id, commit, files)


def difference_on_hub(
        api: HfApi,
        repo_id: str,
        commit: str,
        files: Sequence[LocalFile],
        deleted: Sequence[str] = (),
        note: str = '',
) -> Optional[Tuple[str, str]]:
    """Return the first path at which a commit differs from what was pushed, and how, by the Hub's digests; or None."""
    remote = remote_files(api, repo_id, commit, [f.path for f in files] + list(deleted), note)
    for file in files:
        problem = difference(file, remote.get(file.path))
        if problem is not None:
            return file.path, problem
    return next(((path, 'should be deleted and is still') for path in deleted if path in remote), None)


def _unverified(commit: str) -> str:
    return f'Commit {commit[:12]} was made, but is not verified.'


def _mismatch(api: HfApi, repo_id: str, commit: str, path: str, problem: str) -> IEBNZooError:
    return IEBNZooError(
        f'{path} {problem} in {repo_id} at commit {commit[:12]}.\n'
        f'The commit exists, but nobody should use it: look at {scrub(api.endpoint, None)}/{repo_id}/commits/main, '
        f'then push again.'
    )


def _load_in_fresh_cache(api: HfApi, repo_id: str, commit: str, files: Sequence[LocalFile]) -> float:
    with tempfile.TemporaryDirectory(prefix='iebn-zoo-verify-') as home:
        request, answer = Path(home) / 'request.json', Path(home) / 'answer.json'
        content = {'repo_id': repo_id, 'commit': commit, 'paths': [file.path for file in files]}
        request.write_text(json.dumps(content), encoding='utf-8')
        shown = sys.stderr is not None and sys.stderr.isatty()
        process = subprocess.run(
            [sys.executable, '-c', _CHILD, str(request), str(answer), str(ROOT)],
            cwd=home, env=_environment(api, home), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=None if shown else subprocess.PIPE,
        )
        if not answer.is_file():
            last = (process.stderr or b'').decode(errors='replace').strip().splitlines()[-1:] or ['no message']
            token = api.token if isinstance(api.token, str) else None
            raise IEBNZooError(
                f'the process that was to load {repo_id} from the Hub ended with {process.returncode} '
                f'({scrub(last[0], token)[:160]}).\n{_unverified(commit)}'
            )
        result = json.loads(answer.read_text(encoding='utf-8'))
    if 'path' in result:
        raise _mismatch(api, repo_id, commit, result['path'], result['problem'])
    if 'error' in result:
        raise IEBNZooError(result['error'])
    return result['difference']


def _environment(api: HfApi, home: str) -> Dict[str, str]:
    # the token goes in the environment, because other users can read the arguments of a process
    gone = ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_TOKEN_PATH', 'HF_OIDC_RESOURCE', 'HF_HUB_OFFLINE', 'HF_HUB_CACHE',
            'HUGGINGFACE_HUB_CACHE', 'HF_XET_CACHE', 'HF_ASSETS_CACHE', 'TRANSFORMERS_OFFLINE')
    env = {key: value for key, value in os.environ.items() if key not in gone}
    env.update(HF_HOME=home, HF_ENDPOINT=api.endpoint, HF_HUB_DISABLE_IMPLICIT_TOKEN='0')
    if isinstance(api.token, str):
        env['HF_TOKEN'] = api.token
    if sys.stderr is None or not sys.stderr.isatty():
        env['HF_HUB_DISABLE_PROGRESS_BARS'] = '1'
    return env


def child(request_path: str, answer_path: str) -> None:
    """Read the request file, download, hash, load, compare, and write the answer file; the fresh process runs this."""
    request = json.loads(Path(request_path).read_text(encoding='utf-8'))
    repo_id, commit = request['repo_id'], request['commit']
    answer: Dict[str, Any]
    try:
        with session_timeout():
            api = make_api(os.environ.get('HF_TOKEN'))
            found = verify_repository(api, repo_id, commit, also=request['paths'])
        answer = {'difference': found.difference}
    except WrongBytes as e:
        answer = {'path': e.path, 'problem': 'arrives with other bytes than were pushed (its sha256 differs)'}
    except HubUnreachable as e:
        answer = {'error': '\n'.join([*str(e).splitlines()[:2], _unverified(commit)])}
    except IEBNZooError as e:
        answer = {'error': f'{str(e).splitlines()[0]}\nCommit {commit[:12]} of {repo_id} is not usable.'}
    except Exception as e:
        answer = {'error': f'{repo_id} at commit {commit[:12]} does not load ({kind_and_line(e)}).\n'
                           f'{_unverified(commit)}'}
    if 'error' in answer:
        answer['error'] = scrub(answer['error'], os.environ.get('HF_TOKEN'))
    temporary = Path(f'{answer_path}.tmp')
    temporary.write_text(json.dumps(answer), encoding='utf-8')
    temporary.replace(answer_path)
