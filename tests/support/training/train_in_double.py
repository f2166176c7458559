"""``train`` in float64, for comparisons that the sign of one rounded ReLU input must not decide."""
import sys

import torch

from iebn_zoo.cli import run
from iebn_zoo.commands.train import main
from iebn_zoo.training.callbacks import base as extensions
from iebn_zoo.training.callbacks.base import Extension


class Double(Extension):
    """Makes the network one of float64 that takes float32 images."""

    name = 'double'

    @classmethod
    def from_args(cls, args):
        return cls()

    def prepare_model(self, model):
        model.double().register_forward_pre_hook(lambda module, inputs: tuple(x.to(torch.float64) for x in inputs))


if __name__ == '__main__':
    extensions.EXTENSIONS = ('iebn_zoo.training.callbacks.freeze:FreezeStatistics',
                             'tests.support.training.train_in_double:Double')
    sys.exit(run(main))
