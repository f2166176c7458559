"""Draw runs over each other: python scripts/plot.py RUN... -o runs.png. The same command is `iebn-zoo plot`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.plot import main

if __name__ == '__main__':
    sys.exit(run(main))
