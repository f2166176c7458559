"""``iebn-zoo validate``: top-1 and top-5 of a network on labelled images."""
import argparse
import json
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.training.config.arguments import validate_parser
from iebn_zoo.training.engine.evaluate import metrics_line
from iebn_zoo.training.validate import validate
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.results import Kind, check_directory, check_file

RESULTS = Kind('a results file of iebn-zoo validate', b'{\n  "model": ', b'\n  "use_ema": ')


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    return validate_parser()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/validate.py and of ``iebn-zoo validate``."""
    args = build_parser().parse_args(argv)
    if not args.model and not args.checkpoint:
        raise UsageError('no --model given.\nExpected a registered name, local-dir:DIR or hf-hub:ID, or --checkpoint.')
    if args.results_file:
        path = Path(args.results_file)
        if args.confusion and path.absolute().parent == Path(args.confusion).absolute():  # which validate makes
            check_directory('--results-file', path.parent, {path.name: RESULTS})
        else:
            check_file('--results-file', path, RESULTS)
    results = validate(args)
    text = json.dumps(results, indent=2, allow_nan=False)
    try:
        if args.results_file:
            write_text(args.results_file, text + '\n')
    finally:  # the disk may be full by now
        print(metrics_line(results), file=sys.stderr)
        print(text)
    return 0
