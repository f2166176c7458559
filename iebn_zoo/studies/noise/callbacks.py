"""The noise attacks, and the logs that show their effect, as extensions of training (``training.callbacks.base``)."""
import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
import torch
from torch import nn

from iebn_zoo.data.images import ImageSubset
from iebn_zoo.data.loader import make_loader
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.studies.noise.gate_stats import gate_statistics
from iebn_zoo.studies.noise.log import layer_rows, write_layers
from iebn_zoo.studies.noise.measure import mean_batch_noise, measure_batch_noise
from iebn_zoo.studies.noise.mixing import CompanionImages, open_companions
from iebn_zoo.studies.noise.norm_noise import add_norm_noise, attack_of_evaluation_switched
from iebn_zoo.studies.noise.probes import ProbeBatches
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.training.config.images import open_in_turns
from iebn_zoo.training.engine.evaluate import autocast, evaluate
from iebn_zoo.util.command_line.flags import Switch, expanded
from iebn_zoo.util.errors import UsageError

if TYPE_CHECKING:
    from iebn_zoo.training.engine.run import Run

_ROUNDS = 8  # batches per probe image
_PROBES = 32


def _refuse_frozen(args: argparse.Namespace, flag: str) -> None:
    frozen = next((name for name in ('freeze_stats', 'freeze_backbone') if getattr(args, name, False)), None)
    if frozen is not None:
        raise UsageError(f'{flag} and --{frozen.replace("_", "-")} contradict: frozen norms do not normalize by the '
                         f'batch.\nLeave out one of them.')


class NormNoiseAttack(Extension):
    """``--norm-noise``: x^ -> Na * x^ + Nb in every norm.

    If the noise is in training alone, the evaluated network is another one than the trained. So summary.csv has both
    accuracies: ``eval_attacked_*`` with the noise in evaluation too, beside ``eval_*`` without; with
    ``--norm-noise-eval``, which ranks epochs by the attacked network, ``eval_clean_*`` without beside ``eval_*``. Of
    EMA weights they are ``eval_ema_attacked_*`` and ``eval_ema_clean_*``.
    """

    name = 'norm_noise'

    def __init__(self, na: float, nb: float, in_eval: bool) -> None:
        self.na, self.nb, self.in_eval = na, nb, in_eval

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        g = parser.add_argument_group('noise attacks and their effect')
        g.add_argument('--norm-noise', type=float, nargs=2, metavar=('NA', 'NB'),
                       help='constant noise: train with NA·x^ + NB instead of the normalized x^ in every norm')
        g.add_argument('--norm-noise-eval', action=Switch, help='attack the evaluation of the run too, and rank '
                       'epochs by it; either way summary.csv has both accuracies')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional[Extension]:
        if args.norm_noise is None:
            if args.norm_noise_eval:
                raise UsageError('--norm-noise-eval without --norm-noise.\nSay which noise: --norm-noise NA NB.')
            return None
        if args.sync_bn:
            raise UsageError('--norm-noise and --sync-bn contradict: SyncBatchNorm cannot be attacked.\n'
                             'Leave out one of them.')
        _refuse_frozen(args, '--norm-noise')
        na, nb = args.norm_noise
        return cls(na, nb, args.norm_noise_eval)

    def prepare_model(self, model: nn.Module) -> None:
        add_norm_noise(model, self.na, self.nb, self.in_eval)

    def epoch_end(self, run: 'Run', row: Dict[str, Any]) -> None:
        other = 'clean' if self.in_eval else 'attacked'
        ema = run.trainer.ema
        for kind, model in (('', run.model), ('ema_', None if ema is None else ema.module)):
            if model is not None:
                with attack_of_evaluation_switched(model):
                    metrics = evaluate(
                        model, run.eval_loader, run.args, run.device, f'eval {other}', run.processes.many)
                row.update({f'eval_{kind}{other}_{name}': metrics[name] for name in ('loss', 'top1', 'top5')})


class MixDatasetAttack(Extension):
    """``--mix-dataset``: each training batch carries images of another dataset."""

    name = 'mix_dataset'

    def __init__(self, root: str, number: int, dataset: str, download: bool) -> None:
        self.root, self.number, self.dataset, self.download = root, number, dataset, download

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        g = parser.add_argument_group('mixed dataset')
        g.add_argument('--mix-dataset', type=expanded, metavar='DIR',
                       help='second dataset (its train/ or train.tar), whose images disturb the statistics of each '
                            'training batch and do not count in the loss')
        g.add_argument('--mix-dataset-name', metavar='NAME', help="timm's name of the second dataset, as --dataset: "
                       'torch/fashion_mnist, hfds/NAME; without it DIR holds images')
        g.add_argument('--mix-count', type=int, metavar='K', help='how many of them per batch and process')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional[Extension]:
        if (args.mix_dataset is None) != (args.mix_count is None):
            given, lacking = ('dataset', 'count') if args.mix_count is None else ('count', 'dataset')
            raise UsageError(f'--mix-{given} without --mix-{lacking}.\nGive both: which images, and how many.')
        if args.mix_dataset is None:
            if args.mix_dataset_name is not None:
                raise UsageError('--mix-dataset-name without --mix-dataset.\nSay where it is: --mix-dataset DIR.')
            return None
        return cls(args.mix_dataset, args.mix_count, args.mix_dataset_name or '',
                   args.dataset_download and args.mix_dataset_name is not None)

    def prepare(self, run: 'Run') -> None:
        loader = run.train_loader
        images = open_in_turns(
            lambda download: open_companions(self.root, loader.dataset.images, self.dataset, download), self.download,
            run.processes)
        self.images = CompanionImages(images, self.number, loader, run.data_config, run.rank)
        self.digest = images.digest

    def data_digests(self) -> Dict[str, str]:
        return {self.name: self.digest}

    def companions(self, epoch: int, step: int) -> Optional[torch.Tensor]:
        return self.images.at(epoch, step)


class BatchNoise(Extension):
    """``--batch-noise``: the batch noise of each norm after each epoch, in batch_noise.csv, its mean in summary.csv."""

    name = 'batch_noise'
    free_flags = ('batch_noise',)

    def __init__(self, probes: int) -> None:
        self.probes = probes
        self.rows: List[Dict[str, Any]] = []

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        g = parser.add_argument_group('batch noise')
        g.add_argument('--batch-noise', type=int, nargs='?', const=_PROBES, metavar='N',
                       help=f'measure after each epoch how much the other images of a batch change the output of '
                            f'each norm for N training images ({_PROBES} if no N is given): batch_noise.csv')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional[Extension]:
        if args.batch_noise is None:
            return None
        _refuse_frozen(args, '--batch-noise')
        return cls(args.batch_noise)

    def prepare(self, run: 'Run') -> None:
        images = run.train_loader.dataset.images
        self.batches = ProbeBatches(
            images, self.probes, _ROUNDS, run.args, run.data_config, run.device)

    def epoch_end(self, run: 'Run', row: Dict[str, Any]) -> None:
        context = partial(autocast, run.args, run.device)
        layers = measure_batch_noise(run.model, self.batches, self.probes, context)
        row['batch_noise'] = mean_batch_noise(layers)
        self.rows += layer_rows(row['epoch'], layers)

    def run_start(self, run: 'Run') -> None:
        self._write(run)  # the file is older or newer than the checkpoint where the run was killed, or has gone back

    def epoch_written(self, run: 'Run', row: Dict[str, Any]) -> None:
        self._write(run)

    def _write(self, run: 'Run') -> None:
        if run.rank == 0:
            write_layers(run.output, self.rows)

    def state_dict(self) -> Dict[str, Any]:
        return {'rows': [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state['rows']]


class GateStatistics(Extension):
    """``--gate-stats``: mean and spread of the gates of each stage on one batch, in summary.csv.

    The batch is the same in every process. It is spread evenly over the evaluation images, because a folder or tar
    sorts them by class.
    """

    name = 'gate_stats'
    free_flags = ('gate_stats',)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        g = parser.add_argument_group('gate statistics')
        g.add_argument('--gate-stats', action=Switch,
                       help='write mean and spread of the gates of each stage after each epoch, if there are gates')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional[Extension]:
        return cls() if args.gate_stats else None

    def prepare(self, run: 'Run') -> None:
        images = run.eval_loader.dataset.images
        count = min(run.args.batch_size, len(images))
        chosen = ImageSubset(images, np.linspace(0, len(images) - 1, count).astype(int).tolist())
        args = replace(run.args, workers=0)
        batch, targets = next(iter(make_loader(chosen, args, run.data_config, run.device, train=False)))
        self.images = batch[targets >= 0]

    def epoch_end(self, run: 'Run', row: Dict[str, Any]) -> None:
        # one recipe serves all norms of a grid: a network without gates has no such columns
        if any(isinstance(m, IEBatchNorm2d) for m in run.model.modules()):
            row.update(gate_statistics(run.model, self.images))
