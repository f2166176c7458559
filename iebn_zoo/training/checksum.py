"""The checksum of a checkpoint, at its old place; see ``iebn_zoo.weights.checksum``."""
from iebn_zoo.weights.checksum import content_digest

__all__ = ['content_digest']
