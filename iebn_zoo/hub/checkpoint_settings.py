"""The checks of a checkpoint's settings, at their old place; see ``iebn_zoo.weights.settings``."""
from iebn_zoo.weights.settings import check_settings, label_names_of, shortened

__all__ = ['check_settings', 'label_names_of', 'shortened']
