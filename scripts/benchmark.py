"""Measure IEBN against BatchNorm: python scripts/benchmark.py --quick or --gpu; also `iebn-zoo benchmark`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.benchmark import main

if __name__ == '__main__':
    sys.exit(run(main))
