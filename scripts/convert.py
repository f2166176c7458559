"""Convert BN to IEBN, back, or fold gates; python scripts/convert.py --help tells how. Also `iebn-zoo convert`."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.hub.convert import main

if __name__ == '__main__':
    sys.exit(run(main))
