"""``python -m iebn_zoo COMMAND`` and ``torchrun -m iebn_zoo train``."""
import sys

from iebn_zoo.cli import main

if __name__ == '__main__':
    sys.exit(main())
