"""The errors, at their old place; see ``iebn_zoo.util.errors``."""
from iebn_zoo.util.errors import IEBNZooError, UsageError

__all__ = ['IEBNZooError', 'UsageError']
