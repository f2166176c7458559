"""The noise attacks, at their old place; see ``iebn_zoo.studies.noise``."""
from iebn_zoo.studies.noise import add_norm_noise

__all__ = ['add_norm_noise']
