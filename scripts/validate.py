"""Measure top-1 and top-5; python scripts/validate.py --help tells how. The same command is `iebn-zoo validate`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.validate import main

if __name__ == '__main__':
    sys.exit(run(main))
