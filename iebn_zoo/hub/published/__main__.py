"""``python -m iebn_zoo.hub.published``: write the cards and the table of hub_cards anew, or add a folder."""
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.hub.package.evaluation import add_evaluation_images, evaluation_images
from iebn_zoo.hub.package.golden import CARD
from iebn_zoo.hub.package.ids import check_ids
from iebn_zoo.hub.published.add import add
from iebn_zoo.hub.published.folder import folders, write_card
from iebn_zoo.hub.published.index import index
from iebn_zoo.util.command_line.flags import Switch, add_use_ema
from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text


def build_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(prog='python -m iebn_zoo.hub.published',
                    description='Write the card of every folder of hub_cards anew from its logs, and the table of all '
                    'of them.')
    parser.add_argument('hub_cards', type=Path, metavar='DIR', help='the directory hub_cards')
    group = parser.add_argument_group('adding a folder')
    group.add_argument('--add', type=Path, metavar='SOURCE', help='add a run directory, or what iebn-zoo convert wrote')
    group.add_argument('--tag', metavar='TAG', help='the folder is ARCHITECTURE.TAG, such as cifar100_30ep')
    group.add_argument('--example', action='store_true', help='leave the weights out')
    group.add_argument('--runs', type=Path, metavar='FILE', help='runs.csv of the comparison that the run belongs to: '
                       'the card shows its seeds and norms')
    group.add_argument('--best', action='store_true', help='take the best epoch instead of the last')
    add_use_ema(group, 'take the EMA weights, as of iebn-zoo export', Switch, default=None)
    group.add_argument('--license', metavar='ID', help='Hub id of a license, as of iebn-zoo export')
    group.add_argument('--dataset-id', metavar='ID', help='Hub id of the training data, as of iebn-zoo export')
    group.add_argument('--overwrite', action='store_true', help='replace a folder of this name')
    add_evaluation_images(parser)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns 0; raises UsageError or IEBNZooError."""
    args = build_parser().parse_args(argv)
    if (args.add is None) != (args.tag is None):
        raise UsageError('--add and --tag belong together.\nExpected --add RUN --tag cifar100_30ep.')
    check_ids(args.license, None, args.dataset_id)
    if args.add is not None:
        added = add(args.hub_cards, args.add, args.tag, example=args.example, runs=args.runs, best=args.best,
                    ema=args.use_ema, overwrite=args.overwrite, license=args.license, dataset_id=args.dataset_id,
                    images=evaluation_images(args))
        print(f'added     {added}')
    found = folders(args.hub_cards)
    if not found:
        raise UsageError(f'{args.hub_cards} holds no ARCHITECTURE.TAG/config.json.\nGive the directory hub_cards.')
    for folder in found:
        print(f'{"written" if write_card(folder) else "as it was":10}{folder.path / CARD}')
    write_text(args.hub_cards / CARD, index(found))
    print(f'written   {args.hub_cards / CARD}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
