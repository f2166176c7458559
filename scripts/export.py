"""Export a run as a Hub repository; python scripts/export.py --help tells how. Also `iebn-zoo export`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.hub.export import main

if __name__ == '__main__':
    sys.exit(run(main))
