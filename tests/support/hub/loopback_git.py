"""What the loopback Hub stores: repositories with commits, refs and LFS objects, and the errors the real Hub answers.

Nothing here knows HTTP; ``loopback.py`` serves it.
"""
import hashlib
import re
import threading
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional

# what a new repository's .gitattributes sends to LFS on the real Hub (the part that model repositories meet)
LFS_SUFFIXES = ('.safetensors', '.png', '.bin', '.pt', '.pth', '.h5', '.msgpack', '.ckpt', '.onnx', '.tar')
_GITATTRIBUTES = ''.join(f'*{suffix} filter=lfs diff=lfs merge=lfs -text\n' for suffix in LFS_SUFFIXES).encode()


class HubError(Exception):
    """An answer with an error status. ``code`` becomes the X-Error-Code header, on which the client keys."""

    def __init__(self, status: int, message: str, code: Optional[str] = None, **body: Any):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Blob:
    """One version of one file."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (f'version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n'
                f'size {len(self.content)}\n').encode()

    @property
    def git_oid(self) -> str:
        """The git object id: of the content, or of the pointer that git holds instead of it."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b'blob %d\0' % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def lfs_info(self) -> Dict[str, Any]:
        return {'oid': self.sha256, 'sha256': self.sha256, 'size': len(self.content), 'pointerSize': len(self.pointer)}

    def tree_entry(self, path: str) -> Dict[str, Any]:
        entry = {'type': 'file', 'path': path, 'size': len(self.content), 'oid': self.git_oid}
        return {**entry, 'lfs': self.lfs_info()} if self.lfs else entry


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: Optional[str]
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A repository: immutable commits and the refs that point to them."""

    id: str
    private: bool
    commits: Dict[str, Commit] = field(default_factory=dict)
    refs: Dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        # as on the real Hub, a repository is born with one commit
        self.write('refs/heads/main', 'initial commit', {'.gitattributes': Blob(_GITATTRIBUTES, lfs=False)}, None)

    @property
    def owner(self) -> str:
        return self.id.split('/')[0]

    def write(self, ref: str, title: str, files: Mapping[str, Blob], parent: Optional[str]) -> Commit:
        """Add the commit that holds exactly ``files`` and point ``ref`` to it, as one step."""
        digest = hashlib.sha1(f'{self.id} {len(self.commits)} {parent} {title}'.encode())
        for path in sorted(files):
            digest.update(f'{path} {files[path].git_oid}\n'.encode())
        commit = Commit(digest.hexdigest(), parent, title, dict(files))
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    def ref(self, revision: str) -> str:
        """Full name of the branch or pull request that ``revision`` means."""
        for name in (revision, f'refs/heads/{revision}'):
            if name in self.refs:
                return name
        raise HubError(404, f'Invalid rev id: {revision}', 'RevisionNotFound')

    def resolve(self, revision: str) -> Commit:
        if re.fullmatch('[0-9a-f]{40}', revision) and revision in self.commits:
            return self.commits[revision]
        return self.commits[self.refs[self.ref(revision)]]

    def history(self, revision: str = 'main') -> List[Commit]:
        """Commits of ``revision``, oldest first."""
        commits: List[Commit] = []
        oid: Optional[str] = self.resolve(revision).oid
        while oid is not None:
            commits.append(self.commits[oid])
            oid = commits[-1].parent
        return commits[::-1]


class Store:
    """All repositories and the LFS objects they share. Every change holds the lock, so a commit is all or nothing."""

    def __init__(self):
        self.repos: Dict[str, Repo] = {}
        self.lfs: Dict[str, bytes] = {}
        self.lock = threading.RLock()

    def create(self, repo_id: str, private: bool) -> Repo:
        with self.lock:
            if repo_id in self.repos:
                raise HubError(409, f'You already created this model repo: {repo_id}')
            repo = self.repos[repo_id] = Repo(repo_id, private)
            return repo

    def put_lfs(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, f'the uploaded bytes do not have the sha256 {oid}')
        with self.lock:
            self.lfs[oid] = content

    def verify_lfs(self, oid: str, size: int) -> None:
        if oid not in self.lfs:
            raise HubError(404, f'LFS object {oid} was never uploaded')
        if len(self.lfs[oid]) != size:
            raise HubError(422, f'LFS object {oid} has {len(self.lfs[oid])} bytes, not {size}')

    def commit(self, repo: Repo, revision: str, title: str, *, add: Mapping[str, Blob], delete: Iterable[str] = (),
               parent: Optional[str] = None, create_pr: bool = False) -> 'tuple[Commit, Optional[int]]':
        """Apply one commit. Returns it and the number of the pull request it opened, if any."""
        with self.lock:
            base = repo.resolve(revision)
            if create_pr and parent is not None:
                base = repo.resolve(parent)
            elif parent is not None and parent != base.oid:
                raise HubError(412, 'A commit has happened since. Please refresh and try again.')
            files = dict(base.files)
            for path in delete:
                if path not in files:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", 'EntryNotFound')
                del files[path]
            files.update(add)
            number = None
            if create_pr:
                number = 1 + sum(name.startswith('refs/pr/') for name in repo.refs)
            ref = repo.ref(revision) if number is None else f'refs/pr/{number}'
            return repo.write(ref, title, files, base.oid), number
