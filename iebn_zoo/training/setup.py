"""Building what the flags name: device, model, loss, optimizer; each mistake a message."""
import argparse
import difflib
import inspect
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils.distributed import is_distributed_env, world_info_from_env
from torch import nn

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.layers import IEBatchNorm2d

DATA_CONFIG_KEYS = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')


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


def create_model(
        name: str,
        pretrained: bool = False,
        **kwargs: Any,
) -> nn.Module:
    """``timm.create_model`` whose errors are messages.

    Args:
        name: Registered name, ``hf-hub:ID`` or ``local-dir:DIR``.
        pretrained: Load the weights of the name.
        **kwargs: timm's; None is left out.

    Raises:
        UsageError: Unknown name, no weights for it, or arguments it does not take.
        IEBNZooError: The repository or directory cannot be loaded.
    """
    if ':' not in name:
        arch = name.split('.')[0]
        if not timm.is_model(arch):
            near = difflib.get_close_matches(arch, timm.list_models(), n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else "timm.list_models('iebn_*') lists ours."
            raise UsageError(f'unknown model {name!r}.\n{hint}')
        if pretrained and not timm.is_model_pretrained(name):
            near = difflib.get_close_matches(name, timm.list_pretrained(arch), n=3, cutoff=0)
            hint = f"Did you mean {' or '.join(near)}?" if near else (
                'Leave out --pretrained to start from scratch, or name a checkpoint, a local-dir: or an hf-hub: model.')
            raise UsageError(f'there are no pretrained weights for {name}.\n{hint}')
    elif name.startswith('local-dir:') and not (Path(name[len('local-dir:'):]) / 'config.json').is_file():
        raise UsageError(f'no config.json in {name[len("local-dir:"):]}.\nExpected a directory made by export.')
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except (TypeError, ValueError, AssertionError) as e:
        raise UsageError(f'cannot create {name}: {first_line(e)}\nCheck the model name and its arguments.') from e
    except (RuntimeError, OSError, KeyError) as e:
        raise IEBNZooError(f'cannot load {name}: {first_line(e)}\nCheck the files, the name and the network.') from e


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


def architecture_args(model: nn.Module, asked: Dict[str, Any]) -> Dict[str, Any]:
    """Arguments that rebuild ``model`` from its registered name: ``asked`` over what its config.json set.

    An IEBN network's start is among them, asked for or not: the default may be another one day.
    """
    recorded = getattr(model, '_model_args', {})  # timm since 1.0.29 keeps what the config.json of a source added
    recorded = {k: v for k, v in recorded.items() if v is None or isinstance(v, (bool, int, float, str, list))}
    if hasattr(model, 'start') and any(isinstance(m, IEBatchNorm2d) for m in model.modules()):
        recorded = {**recorded, 'start': model.start}
    # a config.json says the number of classes outside of its model_args
    classes = {'num_classes': model.num_classes} if isinstance(getattr(model, 'num_classes', None), int) else {}
    return {**classes, **recorded, **asked}


def first_line(e: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    text = lines[0] if lines else type(e).__name__
    if isinstance(e, KeyError):
        text = f'its config.json has no {text}'
    return text if len(text) <= 300 else text[:297] + '...'


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
    """Input size and preprocessing: the flags over the model's own."""
    flags = {k: getattr(args, k) for k in ('img_size', 'mean', 'std', 'interpolation', 'crop_pct', 'in_chans')}
    flags = {k: v for k, v in flags.items() if v is not None}
    chans = flags.get('in_chans') or getattr(model, 'in_chans', None) or 3
    for key in ('mean', 'std'):
        if key in flags and len(flags[key]) not in (1, chans):
            raise UsageError(f'--{key} has {len(flags[key])} values, expected {chans}, one a channel.')
    try:
        resolved = resolve_data_config(flags, model=model)
    except (AssertionError, ValueError) as e:
        raise UsageError(f'the image settings contradict: {first_line(e)}') from e
    for key in ('mean', 'std'):
        if len(resolved[key]) != chans:  # a grey model made from an RGB configuration: the mean over its channels
            resolved[key] = (sum(resolved[key]) / len(resolved[key]),) * chans
    resolved['input_size'] = (chans, *resolved['input_size'][1:])
    return {k: list(resolved[k]) if isinstance(resolved[k], tuple) else resolved[k] for k in DATA_CONFIG_KEYS}


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
