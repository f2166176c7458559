"""The paper's noise attacks on training, and what shows their effect: the batch-noise measure and gate statistics."""
from iebn_zoo.studies.noise.norm_noise import add_norm_noise

__all__ = ['add_norm_noise']
