"""``--freeze-stats`` and ``--freeze-backbone``: fine-tuning that keeps a part of the network as it is."""
import argparse
from types import MethodType
from typing import List, Optional

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.util.command_line.flags import Switch
from iebn_zoo.util.errors import UsageError


def freeze_statistics(model: nn.Module) -> List[str]:
    """Keep the batch norms of a network in eval mode: they normalize by their running statistics, which stay.

    From now on ``model.train()`` puts all other modules into training mode. Scales, shifts and gates stay trainable.
    Modules and state dict stay as they are. (timm's ``freeze_batch_norm_2d`` also freezes scale and shift of plain
    batch norms, and replaces the modules.)

    Args:
        model: The network, changed in place.

    Returns:
        The names of the norms.
    """
    model.train = MethodType(_train, model)  # bound to this network: a copy (EMA) gets its own
    model.train(model.training)
    return [name for name, _ in _norms(model)]


def thaw_statistics(model: nn.Module) -> None:
    """Undo ``freeze_statistics``; the norms take the mode of the network."""
    if 'train' in vars(model):
        del model.train
    model.train(model.training)


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    type(model).train(model, mode)
    for _, norm in _norms(model):
        norm.eval()
    return model


def _norms(model: nn.Module) -> list:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _refuse_new_weights(args: argparse.Namespace, flag: str, reason: str) -> None:
    if not (args.pretrained or args.initial_checkpoint):
        raise UsageError(f'{flag} with new weights: {reason}.\n'
                         f'Start from trained weights, with --pretrained or --initial-checkpoint.')


class FreezeStatistics(Extension):
    """Freezes the statistics of the network that a run trains."""

    name = 'freeze_stats'

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument_group('fine-tuning').add_argument(
            '--freeze-stats', action=Switch, help='normalize by the running statistics in training too, and '
            'keep them as they are; scales, shifts and gates are trained')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['FreezeStatistics']:
        if not args.freeze_stats:
            return None
        _refuse_new_weights(args, '--freeze-stats', 'the statistics would stay at mean 0 and variance 1')
        return cls()

    def prepare_model(self, model: nn.Module) -> None:
        if not freeze_statistics(model):
            raise UsageError('--freeze-stats: the model has no batch norm with running statistics.\n'
                             'Leave the flag out.')


class FreezeBackbone(Extension):
    """Trains the classifier alone, on the features of the weights that the run starts from: a linear probe."""

    name = 'freeze_backbone'

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument_group('fine-tuning').add_argument(
            '--freeze-backbone', action=Switch, help='train the classifier alone (linear probe); the rest of the '
            'network, running statistics included, stays as it is')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['FreezeBackbone']:
        if not args.freeze_backbone:
            return None
        _refuse_new_weights(args, '--freeze-backbone', 'the classifier would learn from random features')
        return cls()

    def prepare_model(self, model: nn.Module) -> None:
        freeze_backbone(model)


def freeze_backbone(model: nn.Module) -> None:
    """Freeze all of a timm model but the classifier; batch norms stay in eval mode.

    Args:
        model: A network with timm's ``get_classifier``; changed in place.

    Raises:
        UsageError: The network has no classifier with weights.
    """
    get_classifier = getattr(model, 'get_classifier', None)
    classifier = get_classifier() if get_classifier is not None else None
    kept = list(classifier.parameters()) if isinstance(classifier, nn.Module) else []
    if not kept:
        raise UsageError(f'--freeze-backbone: {type(model).__name__} has no classifier with weights.\n'
                         f'Leave the flag out.')
    model.requires_grad_(False)
    for parameter in kept:
        parameter.requires_grad_(True)
    freeze_statistics(model)
