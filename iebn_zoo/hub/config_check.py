"""The check of a config.json, at its old place; see ``iebn_zoo.weights.config_check``."""
from iebn_zoo.weights.config_check import check_config

__all__ = ['check_config']
