"""Building what the flags name: device, model, loss, optimizer; each mistake a message."""
import argparse
import inspect
from typing import Any, Dict, List, Optional, Tuple

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils.distributed import is_distributed_env, world_info_from_env
from torch import nn

from iebn_zoo.util.errors import UsageError, first_line
from iebn_zoo.weights.create import create_model
from iebn_zoo.weights.open import architecture_args
from iebn_zoo.weights.settings import model_settings

__all__ = ['architecture_args', 'create_model', 'data_config', 'first_line', 'make_optimizer', 'match_num_classes',
           'model_args', 'resolve_device', 'rollbacks', 'training_epochs']


def resolve_device(name: str) -> torch.device:
    """``auto`` is the accelerator where there is one; each of several processes of a machine has its own.

    Raises:
        UsageError: The device is unknown, or not there.
    """
    kind, _, index = name.partition(':')
    if kind == 'auto':
        kind = next((k for k in _ACCELERATORS if _available(k)), 'cpu')
    if kind not in (*_ACCELERATORS, 'cpu') or (index and not index.isdigit()):
        raise UsageError(f'unknown --device {name!r}.\nExpected auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.')
    if kind == 'cpu':
        return torch.device('cpu')
    found = _available(kind)
    if kind == 'mps':  # one on every machine that has it, without a number
        if not found or index not in ('', '0'):
            raise UsageError(f'--device {name} is not there.\nUse --device auto.')
        return torch.device('mps')
    # SLURM says the number of a process by another name than torchrun
    local = world_info_from_env()[0] if is_distributed_env() else None
    if local is not None and found and local >= found:
        raise UsageError(f'process {local} of this machine has no GPU of its own: {found} found.\n'
                         f'Start at most one process per GPU, and let each of them see all GPUs of its machine.')
    number = int(index or 0) if local is None else local
    if number >= found:
        raise UsageError(f'--device {name} is not there ({found} GPUs found).\nUse --device auto.')
    device = torch.device(kind, number)
    torch.get_device_module(kind).set_device(device)
    return device


_ACCELERATORS = ('cuda', 'xpu', 'mps')  # in the order in which auto looks for them


def _available(kind: str) -> int:
    """How many devices of a kind torch has on this machine."""
    if kind == 'mps':
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)  # a torch without it has no such module
    return module.device_count() if module is not None and module.is_available() else 0


def model_args(args: argparse.Namespace, num_classes: int) -> Dict[str, Any]:
    """Arguments of the network that the flags set.

    Raises:
        UsageError: ``--model-kwargs`` names one that has a flag of its own.
    """
    flags = dict(num_classes=('--num-classes', num_classes), in_chans=('--in-chans', args.in_chans),
                 global_pool=('--gp', args.gp), drop_rate=('--drop', args.drop),
                 drop_path_rate=('--drop-path', args.drop_path))
    twice = next((name for name in args.model_kwargs if name in flags), None)
    if twice is not None:
        raise UsageError(f'--model-kwargs sets {twice}, which has a flag of its own.\nUse {flags[twice][0]}.')
    given = {name: value for name, (_, value) in flags.items() if value is not None}
    return {**given, **args.model_kwargs}


def match_num_classes(asked: Optional[int], class_names: Optional[List[str]], what: str = 'the data') -> Optional[int]:
    """Number of classes of the data, which an explicit ``--num-classes`` may not contradict.

    Raises:
        UsageError: It does.
    """
    found = len(class_names) if class_names else None
    if asked is not None and found is not None and asked != found:
        raise UsageError(
            f'num_classes is {asked}, but {what} has {found} classes.\nLeave out --num-classes, or use other data.')
    return asked if asked is not None else found


def data_config(args: argparse.Namespace, model: nn.Module) -> Dict[str, Any]:
    """Input size and preprocessing: the flags over the model's own; see ``model_settings``."""
    return model_settings(model, vars(args))


def rollbacks(args: argparse.Namespace) -> int:
    """How often ``--on-nan`` lets a run return to its last good checkpoint; 0 for stop.

    Raises:
        UsageError: It is neither ``stop`` nor ``rollback N``.
    """
    words = args.on_nan
    if words == ['stop']:
        return 0
    if words[:1] == ['rollback'] and len(words) == 2 and words[1].isdigit() and int(words[1]) > 0:
        return int(words[1])
    raise UsageError(f"--on-nan is {' '.join(words)!r}.\nExpected stop, or rollback N with N at least 1.")


def make_optimizer(args: argparse.Namespace, model: nn.Module, updates_per_epoch: int) -> Tuple[Any, Any]:
    """timm's optimizer and schedule.

    Raises:
        UsageError: Unknown names, or an optimizer that this loop cannot step.
    """
    try:
        optimizer = create_optimizer_v2(model, filter_bias_and_bn=not args.weight_decay_all, **optimizer_kwargs(args))
    except (ValueError, AssertionError, TypeError, IndexError) as e:
        raise UsageError(
            f'--opt {args.opt}: {first_line(e)}\nExpected an optimizer of timm, such as sgd or adamw.') from e
    closure = inspect.signature(optimizer.step).parameters.get('closure')
    if getattr(optimizer, 'is_second_order', False) or (closure and closure.default is inspect.Parameter.empty):
        raise UsageError(f'--opt {args.opt} needs more than one gradient an update, which this loop does not make.\n'
                         f'Expected a first-order optimizer of timm, such as sgd or adamw.')
    scheduler, _ = _schedule(args, optimizer, updates_per_epoch)
    return optimizer, scheduler


def training_epochs(args: argparse.Namespace) -> int:
    """How many epochs a run trains: ``--epochs``, which is the schedule's length, and its cooldown behind.

    Raises:
        UsageError: The schedule is unknown, or has no end to cool down behind.
    """
    epochs = _schedule(args, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), 1)[1]
    if args.cooldown_epochs and epochs == args.epochs:
        raise UsageError(f'--cooldown-epochs is {args.cooldown_epochs}, but --sched {args.sched} has no cooldown.\n'
                         f'Use cosine, tanh or poly, or leave it out and give more --epochs.')
    return int(epochs)


def _schedule(args: argparse.Namespace, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Tuple[Any, int]:
    try:
        return create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=updates_per_epoch)
    except (ValueError, AssertionError, TypeError, UnboundLocalError, ZeroDivisionError) as e:
        raise UsageError(f'--sched {args.sched}: {first_line(e)}\n'
                         f'Expected cosine, step, multistep, poly, tanh, or none.') from e
