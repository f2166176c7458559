"""``verify``: check that a model is what somebody exported."""
import argparse
from typing import List, Optional, Sequence

from iebn_zoo.hub.package.golden import GOLDEN
from iebn_zoo.hub.push.client import quiet_without_terminal
from iebn_zoo.hub.push.verify import Verification, verify
from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.command_line.parser import Parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        allow_abbrev=False,
        description=f'Check an exported model against its {GOLDEN}: every byte, label names, preprocessing of an '
        'image, logits. The model is loaded through timm as a user loads it; the command changes and sends nothing.',
        epilog='With HF_HUB_OFFLINE=1 the copy in the cache is checked. The token for a private repository comes from '
        'HF_TOKEN or from `hf auth login`. IEBN_ZOO_HUB_TIMEOUT: seconds that one request may take (default 120).')
    parser.add_argument('model', type=expanded, metavar='DIR|OWNER/NAME',
                        help='an export directory, or a repository on the Hub')
    parser.add_argument('--revision', metavar='REV', help='branch, refs/pr/N or, to pin it, a full commit hash')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns 0; raises UsageError or IEBNZooError."""
    args = build_parser().parse_args(argv)
    with quiet_without_terminal():
        found = verify(args.model, args.revision)
    print('\n'.join(_report(found)))
    return 0


def _report(found: Verification) -> List[str]:
    lines = [f'verified {found.name}{" (in the cache, the Hub was not asked)" if found.offline else ""}']
    lines += [f'  {"edited" if path in found.edited else "as exported":>11}  {path}' for path in found.files]
    lines += [f'  {"not checked":>11}  {path}' for path in found.others]
    image = 'label names, preprocessing and the name it gives to an image are those of the export'
    none = 'label names and the settings of the preprocessing are those of the export'
    lines.append(f'{image if found.image else none}; logits within {found.difference:.1e} of {GOLDEN}')
    if not found.image:
        lines.append(f'note: {GOLDEN} holds no image: what the preprocessing makes of one, and the name that it gets, '
                     f'were not checked')
    lines += [f'{name}: logits within {difference:.1e} of {GOLDEN}' for name, difference in found.formats.items()]
    lines += [f'note: {line}' for line in found.not_run]
    if found.other_name is not None:
        own = found.name.removeprefix('hf-hub:').partition('@')[0]
        lines.append(f'note: the code on the card loads {found.other_name}, and this is {own}, a copy or a new name of '
                     f'it: what lies at {found.other_name} was not checked')
    if found.edited:
        lines.append(f'note: somebody has edited {", ".join(found.edited)} since the export: what it says was not '
                     f'checked')
    return lines
