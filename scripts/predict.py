"""Classify images; python scripts/predict.py --help tells how. The same command is `iebn-zoo predict`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.predict import main

if __name__ == '__main__':
    sys.exit(run(main))
