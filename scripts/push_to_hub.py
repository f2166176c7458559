"""Push an exported model to the Hugging Face Hub: python scripts/push_to_hub.py DIR --repo-id OWNER/NAME."""
import sys

from iebn_zoo.cli import run
from iebn_zoo.commands.hub.push import main

if __name__ == '__main__':
    sys.exit(run(main))
