"""Creates a repository and commits to it. If an answer is lost, the push asks the Hub what happened before it reports.

A commit is atomic on the Hub, and so is the creation of a repository. Afterwards the repository is as it was, holds the
new commit, or is new and empty, and every message says which.
"""
import re
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from iebn_zoo.hub.push.arrival import difference_on_hub
from iebn_zoo.hub.push.client import HubRefused, ask, commit_of, hub_errors, repo_info
from iebn_zoo.hub.push.patience import limit, session_timeout, transfer_limit, within
from iebn_zoo.hub.push.plan import Plan
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.hub_token import scrub


class Delivered(NamedTuple):
    """A commit: its full oid, and of a pull request the page and the ref."""

    oid: str
    pr_url: Optional[str] = None
    pr_revision: Optional[str] = None


@contextmanager
def noted(note: str) -> Iterator[None]:
    """Put ``note`` in the third line of an IEBNZooError that leaves the block."""
    try:
        yield
    except IEBNZooError as e:
        raise _with_note(e, note) from e


def empty_note(api: HfApi, repo_id: str) -> str:
    """Return the line of a message that tells of a new and empty repository."""
    return f'{page(api, repo_id)} was created and is empty: push again to fill it, or delete it there.'


def look(api: HfApi, repo_id: str) -> Optional[Any]:
    """Return a repository's info (sha of main, files, visibility), or None if this token can see no such repository."""
    def read() -> Optional[Any]:
        try:
            return repo_info(api, repo_id)
        except RepositoryNotFoundError:
            return None
    return ask(api, repo_id, 'asking about', read)


def page(api: HfApi, repo_id: str) -> str:
    """Return the address of a repository's page."""
    return f'{scrub(api.endpoint, None)}/{repo_id}'


def create(api: HfApi, repo_id: str, private: bool) -> Any:
    """Create a repository and return its info.

    Raises:
        IEBNZooError: It was not created, or was not created as private; the message says what is there now.
    """
    url = page(api, repo_id)
    try:
        with hub_errors(api, repo_id, 'creating'):
            within(limit(), lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        lost = None
    except HubRefused:
        raise
    except IEBNZooError as e:
        lost = e
    try:
        remote = look(api, repo_id)
    except IEBNZooError as e:
        if lost is None:
            raise _with_note(e, empty_note(api, repo_id)) from e
        raise _with_note(lost, f'{url} may have been created, and is empty then: look there, and push again.') from lost
    if remote is None:
        if lost is not None:
            raise _with_note(lost, f'{repo_id} was not created.') from lost
        raise IEBNZooError(f'{scrub(api.endpoint, None)} says that it created {repo_id}, and then that there is none.\n'
                           f'Look at {url}, and push again.')
    if private and not remote.private:
        raise IEBNZooError(f'{url} was created as public, though --private was asked for; nothing was uploaded.\n'
                           f'Make that empty repository private in its settings and push again, or delete it there.')
    return remote


def commit(api: HfApi, repo_id: str, plan: Plan, parent: str, created: bool, create_pr: bool, title: str) -> Delivered:
    """Upload the files of ``plan`` and make one commit on top of ``parent``.

    Raises:
        IEBNZooError: There is no such commit; the message says what is there.
    """
    url = page(api, repo_id)
    note = empty_note(api, repo_id) if created else f'Nothing was committed to {repo_id}.'
    additions = [CommitOperationAdd(file.path, str(file.source) if file.content is None else file.content)
                 for file in plan.files]
    size = sum(file.size for file in plan.files)
    with session_timeout(repeated=True), hub_errors(api, repo_id, 'uploading to', note):
        within(transfer_limit(size), lambda: api.preupload_lfs_files(
            repo_id, additions, create_pr=create_pr, free_memory=False))
    operations: List[Any] = [*additions, *(CommitOperationDelete(path) for path in plan.deleted)]
    try:
        with hub_errors(api, repo_id, 'committing to'):
            info = within(limit(), lambda: api.create_commit(
                repo_id, operations, commit_message=title, parent_commit=parent, create_pr=create_pr))
        return Delivered(info.oid, info.pr_url, info.pr_revision)
    except HubRefused as e:
        if e.status == 412:
            raise _precondition(api, repo_id, parent, e, note) from e
        raise _with_note(e, note) from e
    except IEBNZooError as e:
        lost = e
    try:
        found = _find(api, repo_id, plan, parent, create_pr)
    except IEBNZooError:
        raise _with_note(lost, f'Whether the commit was made is not known: look at {url}/commits/main before you push '
                               f'again.') from lost
    if found is None:  # the call may still be on its way
        raise _with_note(lost, f'{note} If the request is still on its way, that changes: look at {url}/commits/main '
                               f'before you push again.') from lost
    return found


def _find(api: HfApi, repo_id: str, plan: Plan, parent: str, create_pr: bool) -> Optional[Delivered]:
    """Return the commit whose answer was lost, or None if it was not made."""
    def read() -> Delivered:
        if not create_pr:
            return Delivered(commit_of(repo_info(api, repo_id)))
        refs = api.list_repo_refs(repo_id, include_pull_requests=True)
        matches = [(re.fullmatch(r'refs/pr/(\d+)', ref.ref), ref) for ref in refs.pull_requests or []]
        numbered = [(int(found[1]), ref) for found, ref in matches if found]
        if not numbered:
            return Delivered(parent)
        number, ref = max(numbered, key=lambda pair: pair[0])
        return Delivered(ref.target_commit, f'{page(api, repo_id)}/discussions/{number}', ref.ref)

    head = ask(api, repo_id, 'looking for the commit in', read)
    if head.oid == parent:
        return None
    wrong = difference_on_hub(api, repo_id, head.oid, plan.files, plan.deleted)
    if wrong is None:
        return head
    if create_pr:
        return None  # somebody else opened the newest pull request
    raise IEBNZooError(f'{repo_id} has a commit that this push did not make.')


def _precondition(api: HfApi, repo_id: str, parent: str, refused: HubRefused, note: str) -> IEBNZooError:
    # 412 says that a condition of the request does not hold; ours is that main has not moved
    try:
        remote = look(api, repo_id)
    except IEBNZooError:
        remote = None
    if remote is None or remote.sha == parent:
        return _with_note(refused, note)
    return IEBNZooError(
        f'somebody else has committed to {repo_id} since this push read it (412); nothing was written.\n'
        f'Look at {page(api, repo_id)}/commits/main and run again.')


def _with_note(error: IEBNZooError, note: str) -> IEBNZooError:
    return type(error)('\n'.join([*str(error).splitlines()[:2], note]))
