"""Train a grid of norms and seeds by one recipe; python scripts/compare.py --help. Also `iebn-zoo compare`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.compare import main

if __name__ == '__main__':
    sys.exit(run(main))
