"""``push``: push an export directory to the Hub, and load it back to prove it."""
import argparse
import re
import sys
from typing import List, Optional, Sequence

from iebn_zoo.hub.package.golden import GOLDEN
from iebn_zoo.hub.push.client import quiet_without_terminal
from iebn_zoo.hub.push.upload import PushResult, push
from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.errors import UsageError

__all__ = ['PushResult', 'build_parser', 'main', 'push']


def build_parser() -> argparse.ArgumentParser:
    """Make the parser. It has no flag for a token, because other users of the machine see arguments."""
    parser = Parser(
        allow_abbrev=False,
        description='Push an exported model to the Hugging Face Hub in one commit, and load it back to prove it.',
        epilog='The token comes from HF_TOKEN or from `hf auth login`. IEBN_ZOO_HUB_TIMEOUT: seconds that one request '
        'may take in all (default 120). DIR is not changed; names that begin with a dot are skipped.',
    )
    parser.add_argument('directory', type=expanded, metavar='DIR', help='directory that export or convert wrote')
    parser.add_argument('--repo-id', required=True, metavar='OWNER/NAME', help='repository; created if there is none')
    parser.add_argument('--private', action='store_true', help='create a new repository as private')
    parser.add_argument('--create-pr', action='store_true', help='open a pull request instead of committing to main')
    parser.add_argument('--commit-message', metavar='TEXT', help='title of the commit (default: it names the model)')
    parser.add_argument('--include', action='append', default=[], metavar='GLOB',
                        help='push further files of DIR too, such as "figures/*.svg"; may be repeated (default: only '
                        'what the export made)')
    parser.add_argument('--replace-card', action='store_true',
                        help='replace a README.md on the Hub that somebody wrote or edited by hand')
    parser.add_argument('--dry-run', action='store_true',
                        help='show what would be sent and what it would replace, and send nothing')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns 0; raises UsageError or IEBNZooError."""
    argv = sys.argv[1:] if argv is None else argv
    if any(re.match(r'--(hf[-_])?(auth[-_])?token\b', arg) for arg in argv):
        # argparse would print the unknown argument, token and all
        raise UsageError(
            'a token does not belong on the command line, where other users and the shell history see it.\n'
            'Set HF_TOKEN or run `hf auth login`.'
        )
    args = build_parser().parse_args(argv)
    with quiet_without_terminal() as terminal:
        result = push(
            args.directory, args.repo_id, private=args.private, create_pr=args.create_pr,
            commit_message=args.commit_message, include=args.include, replace_card=args.replace_card,
            dry_run=args.dry_run,
            progress=(lambda line: print(f'{line} ...', file=sys.stderr)) if terminal else None,
        )
    print('\n'.join(_report(result)))
    return 0


def _report(result: PushResult) -> List[str]:
    dry = result.commit is None
    visibility = {True: 'private', False: 'public', None: 'visibility unknown'}[result.private]
    state = 'new, ' if result.created else ''
    done = 'would push to' if dry else 'already on' if result.unchanged else 'pushed to'
    lines = [f'{done} {result.url} ({state}{visibility})']
    lines += [f'  {_size(size):>10}  {path}' for path, size in result.files.items()]
    lines += [f'  {"replace" if dry else "replaced":>10}  {path}' for path in result.replaced]
    lines += [f'  {"delete" if dry else "deleted":>10}  {path}' for path in result.deleted]
    before, after = (license or 'none' for license in (result.license_before, result.license_after))
    lines.append('license on the card: ' + (after if result.created else f'before {before}, after {after}'))
    if result.kept_card:
        lines.append('note: README.md on the Hub was written or edited by hand and stays; --replace-card replaces it')
    if result.left:
        lines.append(f'note: no export made {_some(result.left)}, so it stays here; --include takes it along')
    lines += [f'note: {remark}' for remark in result.remarks]
    if dry:
        return lines + ['dry run: nothing was sent']
    if result.pr_url:
        lines.append(f'pull request {result.pr_url}')
    if result.unchanged:
        lines.append('nothing has changed: no new commit')
    revision = f'@{result.commit}' if result.pr_url else ''
    return lines + [
        f'commit {result.commit}',
        f'verified: loaded from the Hub in a fresh cache, logits within {result.difference:.1e} of {GOLDEN}',
        f"load it: import iebn_zoo, timm; timm.create_model('hf-hub:{result.repo_id}{revision}', pretrained=True)",
    ]


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')


def _size(size: float) -> str:
    for unit in ('B', 'kB', 'MB'):
        if size < 1000:
            return f'{size:.0f} {unit}' if unit == 'B' else f'{size:.1f} {unit}'
        size /= 1000
    return f'{size:.1f} GB'
