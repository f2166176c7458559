"""Train a model; python scripts/train.py --help tells how. The same command is `iebn-zoo train`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.train import main

if __name__ == '__main__':
    sys.exit(run(main))
