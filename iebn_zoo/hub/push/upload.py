"""Pushes an export directory to the Hub in one commit and loads it back.

Check the directory -> who am I -> what is there -> create the repository -> ONE commit on top of the head that was
read -> verify the commit up to the logits. Nothing is created or sent before every local check has passed; a commit is
atomic on the Hub; and if somebody else commits in between, the Hub refuses ours.
"""
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from huggingface_hub import HfApi

import iebn_zoo
from iebn_zoo.hub.package.check import CARD, Checked, check_directory
from iebn_zoo.hub.package.ids import check_repo_id
from iebn_zoo.hub.push.arrival import check_arrival
from iebn_zoo.hub.push.client import HubUnreachable, hub_errors, make_api, require_token, validate_card
from iebn_zoo.hub.push.deliver import commit, create, empty_note, look, noted, page
from iebn_zoo.hub.push.patience import limit, session_timeout, within
from iebn_zoo.hub.push.plan import Plan, make_plan
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.hub_token import find_token


@dataclass(frozen=True)
class PushResult:
    """What a push did, or with ``dry_run`` would do.

    Attributes:
        repo_id: ``OWNER/NAME``.
        url: The repository's page.
        files: Size in bytes of every file pushed, by its path.
        deleted: Stale weights, and reports of the export that is replaced, that the same commit removes.
        replaced: Paths of ``files`` that were on the Hub with another content.
        kept_card: The README.md on the Hub was written by hand and stays there.
        license_before: The license that the card on the Hub named before, or None.
        license_after: The license that it names now, or None.
        left: Files of the directory that stay here, because no export made them and ``include`` does not name them.
        commit: Full oid of the commit; None after a dry run.
        pr_url: Page of the pull request, if one was opened.
        pr_revision: Its ref, such as ``'refs/pr/1'``.
        private: Whether the repository is private; None if the Hub could not be asked.
        created: Whether this push created the repository.
        unchanged: Whether everything was there already, so that no commit was needed.
        difference: Largest difference between the golden logits and those of the model loaded from the Hub.
        remarks: What a dry run could not find out, what was edited since the export, and what was not run here.
    """

    repo_id: str
    url: str
    files: Dict[str, int]
    deleted: List[str] = field(default_factory=list)
    replaced: List[str] = field(default_factory=list)
    kept_card: bool = False
    license_before: Optional[str] = None
    license_after: Optional[str] = None
    left: List[str] = field(default_factory=list)
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
        include: Sequence[str] = (),
        replace_card: bool = False,
        dry_run: bool = False,
        token: Optional[str] = None,
        progress: Optional[Callable[[str], None]] = None,
) -> PushResult:
    """Push an export directory and prove that it loads from the Hub. Nothing in the directory is changed.

    Args:
        directory: A directory that an export wrote.
        repo_id: ``OWNER/NAME``; created if it does not exist. The card that goes up names it.
        private: Make a new repository private.
        create_pr: Open a pull request on an existing repository instead of committing to main.
        commit_message: Title of the commit.
        include: Patterns of further files to push, beside those that the export made.
        replace_card: Replace a README.md on the Hub that somebody wrote or edited by hand.
        dry_run: Check and report, but send nothing that writes.
        token: Token with write access; default HF_TOKEN, then the hub's login.
        progress: Called with a line before each long step.

    Returns:
        What was done.

    Raises:
        UsageError: There is no such directory, the repository id is bad, or flags contradict what is on the Hub.
        IEBNZooError: The directory is damaged, there is no token or no access, the Hub or the network fails, or the
            commit does not verify.
    """
    say = progress or (lambda line: None)
    check_repo_id(repo_id)
    token = find_token(token)
    if not dry_run:
        require_token(token)
    say(f'checking {directory}')
    directory = Path(directory)
    checked = check_directory(directory, include)
    api = make_api(token)
    with session_timeout():
        if dry_run:
            return _preview(api, repo_id, directory, checked, private, create_pr, replace_card)
        _check_token(api, repo_id)
        remote = look(api, repo_id)
        _check_flags(repo_id, remote, private, create_pr)
        plan = make_plan(api, repo_id, directory, checked, remote, replace_card)
        _check_card(api, repo_id, plan)
        created = remote is None
        if created:
            remote = create(api, repo_id, private)
            with noted(empty_note(api, repo_id)):  # somebody else may have filled it in the meantime
                plan = make_plan(api, repo_id, directory, checked, remote, replace_card)
        title = commit_message or f'Upload {checked.config["architecture"]} with iebn-zoo {iebn_zoo.__version__}'
        say(f'uploading {len(plan.files)} files to {repo_id}')
        done = commit(api, repo_id, plan, remote.sha, created, create_pr, title)
        say(f'loading hf-hub:{repo_id}@{done.oid} in a fresh cache')
        difference = check_arrival(api, repo_id, done.oid, plan.files, plan.deleted, ref=done.pr_revision)
    return replace(
        _result(api, repo_id, checked, plan), commit=done.oid, pr_url=done.pr_url, pr_revision=done.pr_revision,
        private=bool(remote.private), created=created, unchanged=done.oid == remote.sha, difference=difference)


def _check_token(api: HfApi, repo_id: str) -> None:
    with hub_errors(api, repo_id, 'logging in to push'):
        who = within(limit(), api.whoami)
    if ((who.get('auth') or {}).get('accessToken') or {}).get('role') == 'read':
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


def _check_card(api: HfApi, repo_id: str, plan: Plan) -> None:
    card = next((file for file in plan.files if file.path == CARD), None)
    if card is not None:
        text = (card.source.read_bytes() if card.content is None else card.content).decode('utf-8')
        with hub_errors(api, repo_id, f'letting the Hub check {CARD} for'):
            within(limit(), lambda: validate_card(api, text))


def _preview(
        api: HfApi,
        repo_id: str,
        directory: Path,
        checked: Checked,
        private: bool,
        create_pr: bool,
        replace_card: bool,
) -> PushResult:
    remarks, remote, asked = [], None, True
    plan = make_plan(api, repo_id, directory, checked, None, replace_card)
    try:
        if api.token:
            _check_token(api, repo_id)
        else:
            remarks.append('no token: a private repository is not visible, and write access was not checked')
        remote = look(api, repo_id)
        plan = make_plan(api, repo_id, directory, checked, remote, replace_card)
    except HubUnreachable as e:
        asked = False
        remarks.append(f'the Hub could not be asked what is there: {str(e).splitlines()[0]}')
    if asked and (remote is not None or api.token):
        _check_flags(repo_id, remote, private, create_pr)
    known = remote is not None
    result = _result(api, repo_id, checked, plan)
    return replace(
        result, private=remote.private if known else (private if asked else None), created=asked and not known,
        remarks=remarks + result.remarks)


def _result(api: HfApi, repo_id: str, checked: Checked, plan: Plan) -> PushResult:
    remarks = [f'{path} was edited since the export: nobody has checked what it says' for path in checked.edited
               if any(file.path == path for file in plan.files)] + list(checked.not_run)
    return PushResult(
        repo_id, page(api, repo_id), {file.path: file.size for file in plan.files}, plan.deleted, plan.replaced,
        plan.kept_card, plan.license_before, plan.license_after, checked.left, remarks=remarks)
