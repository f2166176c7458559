"""The reader of weights files, at its old place; see ``iebn_zoo.weights.file``."""
from iebn_zoo.weights.file import WeightsFile as CheckpointFile
from iebn_zoo.weights.file import read_weights_file as read_checkpoint_file

__all__ = ['CheckpointFile', 'read_checkpoint_file']
