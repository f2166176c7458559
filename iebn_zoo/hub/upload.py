"""Pushes an export directory to the Hub in one commit and loads it back.

Check the directory -> who am I -> what is there -> create the repository -> ONE commit on top of the head that was
read -> verify the commit up to the logits. Nothing is created or sent before every local check has passed; a commit is
atomic on the Hub; and if somebody else commits in between, the Hub refuses ours.
"""
import re
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

import iebn_zoo
from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.files import write_text
from iebn_zoo.hub.card import with_repo_id
from iebn_zoo.hub.check import CARD, Checked, check_directory
from iebn_zoo.hub.client import (
    HubUnreachable,
    check_repo_id,
    find_token,
    hub_errors,
    make_api,
    repo_info,
    request_timeout,
    require_token,
    scrub,
    validate_card,
)
from iebn_zoo.hub.verify import verify

# The names under which timm and other loaders look for a model's weights. One that stays behind from an older push
# would be taken for this model's; the Hub keeps deleted files in its history.
_STALE = re.compile(
    r'(open_clip_)?(pytorch_model|model)(-\d+-of-\d+)?\.(bin|pth|safetensors)(\.index\.json)?|tf_model\.h5|'
    r'flax_model\.msgpack'
)


@dataclass(frozen=True)
class PushResult:
    """What a push did, or with ``dry_run`` would do.

    Attributes:
        repo_id: ``OWNER/NAME``.
        url: The repository's page.
        files: Size in bytes of every file pushed, by its path.
        deleted: Stale weight files that the same commit removes.
        commit: Full oid of the commit; None after a dry run.
        pr_url: Page of the pull request, if one was opened.
        pr_revision: Its ref, such as ``'refs/pr/1'``.
        private: Whether the repository is private; None if the Hub could not be asked.
        created: Whether this push created the repository.
        unchanged: Whether everything was there already, so that no commit was needed.
        difference: Largest difference between the golden logits and those of the model loaded from the Hub.
        remarks: What a dry run could not find out.
    """

    repo_id: str
    url: str
    files: Dict[str, int]
    deleted: List[str] = field(default_factory=list)
    commit: Optional[str] = None
    pr_url: Optional[str] = None
    pr_revision: Optional[str] = None
    private: Optional[bool] = None
    created: bool = False
    unchanged: bool = False
    difference: Optional[float] = None
    remarks: List[str] = field(default_factory=list)


def push(
        directory: Union[str, Path],
        repo_id: str,
        *,
        private: bool = False,
        create_pr: bool = False,
        commit_message: Optional[str] = None,
        dry_run: bool = False,
        token: Optional[str] = None,
        progress: Optional[Callable[[str], None]] = None,
) -> PushResult:
    """Push an export directory and prove that it loads from the Hub.

    Args:
        directory: What export wrote.
        repo_id: ``OWNER/NAME``; created if it does not exist.
        private: Make a new repository private.
        create_pr: Open a pull request on an existing repository instead of committing to main.
        commit_message: Title of the commit.
        dry_run: Check and report, but send nothing that writes.
        token: Token with write access; default HF_TOKEN, then the hub's login.
        progress: Called with a line before each long step.

    Returns:
        What was done.

    Raises:
        UsageError: No such directory, a bad repository id, or flags that contradict what is on the Hub.
        IEBNZooError: A damaged directory, no token or no access, the Hub or the network failed, or the commit does not
            verify.
    """
    say = progress or (lambda line: None)
    check_repo_id(repo_id)
    token = find_token(token)
    if not dry_run:
        require_token(token)
    with nullcontext() if dry_run else _named_card(Path(directory) / CARD, repo_id):
        say(f'checking {directory}')
        checked = check_directory(directory)
        api = make_api(token)
        with request_timeout():
            if dry_run:
                return _preview(api, repo_id, checked, private, create_pr)
            _check_token(api, repo_id)
            remote = _look(api, repo_id)
            _check_flags(repo_id, remote, private, create_pr)
            title = commit_message or f'Upload {checked.config["architecture"]} with iebn-zoo {iebn_zoo.__version__}'
            say(f'uploading {len(checked.files)} files to {repo_id}')
            result = _commit(api, repo_id, checked, remote, private, create_pr, title)
            say(f'loading hf-hub:{repo_id}@{result.commit} in a fresh cache')
            difference = verify(api, repo_id, result.commit, checked.files, result.deleted, ref=result.pr_revision)
    return replace(result, difference=difference)


@contextmanager
def _named_card(path: Path, repo_id: str) -> Iterator[None]:
    """Fill the placeholder that an export without --repo-id left in the usage snippets; undone if the push fails."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, ValueError):
        text = ''  # check_directory says what is wrong with it
    named = with_repo_id(text, repo_id)
    if named != text:
        write_text(path, named)
    try:
        yield
    except BaseException:
        if named != text:
            write_text(path, text)
        raise


def _look(api: HfApi, repo_id: str) -> Optional[Any]:
    """The repository's info (sha of main, files, visibility), or None if there is none that this token may see."""
    with hub_errors(api, repo_id, 'asking about'):
        try:
            return repo_info(api, repo_id)
        except RepositoryNotFoundError:
            return None


def _check_token(api: HfApi, repo_id: str) -> None:
    with hub_errors(api, repo_id, 'logging in to push'):
        role = ((api.whoami().get('auth') or {}).get('accessToken') or {}).get('role')
    if role == 'read':
        raise IEBNZooError(
            f'no write access to {repo_id}: this token can only read.\n'
            f'Set HF_TOKEN to a token with write access, or run `hf auth login` with one.'
        )


def _check_flags(repo_id: str, remote: Optional[Any], private: bool, create_pr: bool) -> None:
    if remote is None and create_pr:
        raise UsageError(
            f'{repo_id} does not exist, so there is nothing to open a pull request on.\n'
            f'Check the name, or leave out --create-pr to create the repository.'
        )
    if remote is not None and private and not remote.private:
        raise UsageError(
            f'{repo_id} exists and is public; --private only says how to create a new repository.\n'
            f"Make it private in its settings on the Hub first, or leave out --private."
        )


def _stale(remote: Optional[Any], checked: Checked) -> List[str]:
    ours = {file.path for file in checked.files}
    there = [sibling.rfilename for sibling in (remote.siblings or [])] if remote is not None else []
    return sorted(path for path in there if path not in ours and _STALE.fullmatch(path))


def _preview(api: HfApi, repo_id: str, checked: Checked, private: bool, create_pr: bool) -> PushResult:
    remarks, remote, asked = [], None, True
    try:
        if api.token:
            _check_token(api, repo_id)
        else:
            remarks.append('no token: a private repository is not visible, and write access was not checked')
        remote = _look(api, repo_id)
    except HubUnreachable as e:
        asked = False
        remarks.append(f'the Hub could not be asked what is there: {str(e).splitlines()[0]}')
    if asked and (remote is not None or api.token):
        _check_flags(repo_id, remote, private, create_pr)
    known = remote is not None
    return PushResult(
        repo_id, _url(api, repo_id), {file.path: file.size for file in checked.files}, _stale(remote, checked),
        private=remote.private if known else (private if asked else None), created=asked and not known, remarks=remarks,
    )


def _url(api: HfApi, repo_id: str) -> str:
    return f'{scrub(api.endpoint, None)}/{repo_id}'


def _commit(
        api: HfApi,
        repo_id: str,
        checked: Checked,
        remote: Optional[Any],
        private: bool,
        create_pr: bool,
        title: str,
) -> PushResult:
    created = remote is None
    note = ''
    if created:
        card = next(file.source for file in checked.files if file.path == CARD)
        with hub_errors(api, repo_id, f'letting the Hub check {CARD} for'):
            validate_card(api, card.read_text(encoding='utf-8'))
        with hub_errors(api, repo_id, 'creating'):
            api.create_repo(repo_id, private=private, exist_ok=True)
        note = f'{_url(api, repo_id)} was created and may be empty: push again to fill it, or delete it there.'
        with hub_errors(api, repo_id, 'reading', note):
            remote = repo_info(api, repo_id)
    deleted = _stale(remote, checked)
    operations: List[Any] = [CommitOperationAdd(file.path, file.source) for file in checked.files]
    operations += [CommitOperationDelete(path) for path in deleted]
    with hub_errors(api, repo_id, 'committing to', note):
        info = api.create_commit(
            repo_id, operations, commit_message=title, parent_commit=remote.sha, create_pr=create_pr,
        )
    return PushResult(
        repo_id, _url(api, repo_id), {file.path: file.size for file in checked.files}, deleted, commit=info.oid,
        pr_url=info.pr_url, pr_revision=info.pr_revision, private=bool(remote.private), created=created,
        unchanged=info.oid == remote.sha,
    )
