"""``models``: list the networks of this package and where their weights come from."""
import argparse
import sys
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import timm
import torch

import iebn_zoo  # noqa: F401 - registers the models
from iebn_zoo.hub.card.evaluation_facts import read_evaluation
from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.csv_files import write_csv
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.results import check_file, table_kind
from iebn_zoo.weights.create import create_model, is_of_zoo

COLUMNS = ('name', 'parameters', 'input_size', 'license', 'top1', 'weights')
_HEADS = {'input_size': 'input size', 'top1': 'top-1 (%)'}


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description='List the networks of this package: parameters, input size, top-1 and the weights '
        'of each tag. Top-1 is what the weights in this package get right of their test images, in percent; of weights '
        'on the Hub the card in their repository tells it.')
    parser.add_argument('filter', nargs='?', default='*', metavar='FILTER',
                        help="a name, or a pattern such as 'iebn_*50*'")
    parser.add_argument('--pretrained', action='store_true', help='list only names with weights, each with its tag')
    parser.add_argument('--csv', type=expanded, metavar='FILE', help='write the table to FILE too')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo models``."""
    args = build_parser().parse_args(argv)
    if args.csv:
        check_file('--csv', args.csv, table_kind('a table of iebn-zoo models', COLUMNS))
    rows = catalog(args.filter, args.pretrained)
    if not rows:
        raise UsageError(f'no network of this package is called {args.filter}.\n'
                         f"Expected a name or a pattern such as 'iebn_*50*'.")
    if args.csv:
        write_csv(args.csv, rows, COLUMNS)
    heads = [_HEADS.get(name, name) for name in COLUMNS]
    shown = [heads, *([f'{row[name] / 1e6:.2f} M' if name == 'parameters' else row[name] for name in COLUMNS]
                      for row in rows)]
    widths = [max(len(line[i]) for line in shown) for i in range(len(COLUMNS))]
    for line in shown:
        print('  '.join(f'{text:>{w}}' if i == 1 else f'{text:<{w}}'
                        for i, (text, w) in enumerate(zip(line, widths, strict=True))).rstrip())
    print(f'{len(rows)} names; timm.create_model(NAME, pretrained=True) loads those with weights', file=sys.stderr)
    return 0


def catalog(pattern: str = '*', pretrained: bool = False) -> List[Dict[str, Any]]:
    """Make one row per architecture, with the weights that it begins with, and one per tag.

    Args:
        pattern: A name, with or without a tag, or one with wildcards.
        pretrained: Only names with weights.

    Returns:
        COLUMNS; ``parameters`` is a number, with the classifier of the weights; the rest are texts.
    """
    found = [*timm.list_models('*', pretrained=True), *([] if pretrained else timm.list_models('*'))]
    counts: Dict[Any, int] = {}
    rows = []
    for name in sorted({n for n in found if _matches(n, pattern) and is_of_zoo(n)}, key=lambda n: (n.split('.')[0], n)):
        arch, _, tag = name.partition('.')
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None  # timm has listed the name
        key = arch, cfg.num_classes, cfg.input_size[0]
        if key not in counts:
            with torch.device('meta'):  # counted, not made
                model = create_model(arch, num_classes=cfg.num_classes, in_chans=cfg.input_size[0])
            counts[key] = sum(p.numel() for p in model.parameters())
        weights = str(cfg.hf_hub_id or cfg.url or ('in this package' if cfg.file else '')) if tag else 'random'
        if tag.startswith('bn_'):
            weights += ' (BN, converted)'
        rows.append(dict(name=name, parameters=counts[key], input_size=' x '.join(map(str, cfg.input_size)),
                         license=(cfg.license or 'unknown') if tag else '', top1=_top1(cfg.file) if tag else '',
                         weights=weights))
    return rows


def _top1(file: Optional[str]) -> str:
    measured = read_evaluation(Path(file).parent) if file else None
    return f'{measured.top1:.2f}' if measured else ''


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name.split('.')[0], pattern)
