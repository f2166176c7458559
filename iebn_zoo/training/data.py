"""Moved to iebn_zoo.data.loader."""
from iebn_zoo.data.loader import *  # noqa: F403
