"""What IEBN costs against BatchNorm: python scripts/benchmark.py --quick, or --gpu; also `iebn-zoo benchmark`."""
import sys

from iebn_zoo.benchmark.command import main
from iebn_zoo.cli import run

if __name__ == '__main__':
    sys.exit(run(main))
