"""Moved to iebn_zoo.data.holdout."""
from iebn_zoo.data.holdout import *  # noqa: F403
