"""Moved to iebn_zoo.data.images."""
from iebn_zoo.data.images import *  # noqa: F403
