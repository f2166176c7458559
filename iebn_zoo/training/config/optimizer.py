"""timm's optimizer and schedule, and how many epochs the schedule has."""
import inspect
import warnings
from typing import Any, Dict, Optional, Tuple

import timm
import torch
from timm.optim import (  # it has no __all__
    create_optimizer_v2,  # pyright: ignore[reportPrivateImportUsage]
    get_optimizer_class,  # pyright: ignore[reportPrivateImportUsage]
    optimizer_kwargs,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.scheduler.scheduler_factory import create_scheduler_v2, scheduler_kwargs
from torch import nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.training.config.settings import OptimizerSettings, TrainSettings
from iebn_zoo.util.errors import UsageError, first_line

# arguments of an optimizer that have flags of their own
_FLAGS = dict(opt='--opt', lr='--lr', momentum='--momentum', weight_decay='--weight-decay', eps='--opt-eps',
              betas='--opt-betas', layer_decay='--layer-decay', filter_bias_and_bn='--weight-decay-all')
# what an optimizer keeps of each parameter may depend on these
OPTIMIZER_FLAGS = ('opt', 'opt_args', 'opt_betas', 'momentum')
SCHEDULES = ('cosine', 'step', 'multistep', 'poly', 'tanh', 'wsd', 'rsqrt', 'constant', 'plateau', 'none')
_EXPECTED = f'Expected {", ".join(SCHEDULES[:-1])} or none; wsd, rsqrt and constant need timm 1.0.31.'
_WITH_DECAY_AT_END = ('wsd', 'rsqrt')
# updates per epoch where only the number of epochs is asked: enough that a share of a few epochs is not rounded to 0
_MANY_UPDATES = 1000


def make_optimizer(args: TrainSettings, model: nn.Module, updates_per_epoch: int) -> Tuple[Any, Any]:
    """Make timm's optimizer and schedule.

    Raises:
        UsageError: The names are unknown, the optimizer does not take the arguments, this loop cannot step it, or gates
            that the network does not have are to have a learning rate of their own.
    """
    try:
        _check_betas(args)
        optimizer = create_optimizer_v2(model, filter_bias_and_bn=not args.weight_decay_all, **optimizer_kwargs(args))
    except UsageError:
        raise
    except (ValueError, AssertionError, TypeError, IndexError, ImportError) as e:
        raise _refused(args, e) from e
    closure = inspect.signature(optimizer.step).parameters.get('closure')
    if getattr(optimizer, 'is_second_order', False) or (closure and closure.default is inspect.Parameter.empty):
        raise UsageError(f'--opt {args.opt} needs more than one gradient per update, and this loop computes one.\n'
                         f'Expected a first-order optimizer of timm, such as sgd or adamw.')
    if args.gate_lr_scale is not None:
        _scale_gate_rates(optimizer, model, args.gate_lr_scale)
    scheduler, _ = _schedule(args, optimizer, updates_per_epoch)
    if scheduler is None:  # a schedule multiplies the rate of each group by its lr_scale; without one nothing does
        for group in optimizer.param_groups:
            group['lr'] *= group.get('lr_scale', 1.0)
    return optimizer, scheduler


def check_opt_args(args: OptimizerSettings) -> None:
    """Raise UsageError if ``--opt-kwargs`` names an argument that has its own flag, which it would replace."""
    twice = next((name for name in args.opt_args if name in _FLAGS), None)
    if twice is not None:
        raise UsageError(f'--opt-kwargs sets {twice}, which has its own flag.\nUse {_FLAGS[twice]}.')


def training_epochs(args: OptimizerSettings) -> int:
    """Return how many epochs a run trains: ``--epochs``, the length of the schedule, and the cooldown after it.

    Raises:
        UsageError: The schedule is unknown, or has no cooldown.
    """
    epochs = _schedule(args, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), _MANY_UPDATES)[1]
    if args.cooldown_epochs and epochs == args.epochs:
        raise UsageError(f'--cooldown-epochs is {args.cooldown_epochs}, but --sched {args.sched} has no cooldown.\n'
                         f'Use cosine, tanh, poly or wsd, or leave it out and give more --epochs.')
    return int(epochs)


def decay_epochs(value: Optional[float], sched: str) -> float:
    """Return ``--decay-epochs``: ``value``, or timm's default for the schedule where it is None.

    For wsd and rsqrt a number below 1 is a share of the epochs after the warmup.
    """
    if value is not None:
        return value
    return 0.2 if sched in _WITH_DECAY_AT_END else 90


def _check_betas(args: OptimizerSettings) -> None:
    # most optimizers find in their first update alone that these are too many or too few
    kind = get_optimizer_class(args.opt.lower().rpartition('_')[2], bind_defaults=False)  # lookahead_NAME wraps NAME
    betas = inspect.signature(kind).parameters.get('betas')
    own = betas.default if betas is not None else None
    if args.opt_betas is not None and isinstance(own, tuple) and len(args.opt_betas) != len(own):
        raise UsageError(f"--opt-betas is {' '.join(map(str, args.opt_betas))}, and --opt {args.opt} takes {len(own)} "
                         f"values.\nIts own are {' '.join(map(str, own))}.")


def _refused(args: OptimizerSettings, error: Exception) -> UsageError:
    if args.momentum == 0 and 'Nesterov' in str(error):
        return UsageError(f'--momentum is 0, and --opt {args.opt} is with Nesterov momentum, which needs one above 0.\n'
                          f'Use --opt momentum, which is SGD without Nesterov, or --opt-kwargs nesterov=False.')
    also = ', and arguments in --opt-kwargs that it takes' if args.opt_args else ''
    return UsageError(
        f'--opt {args.opt}: {first_line(error)}\nExpected an optimizer of timm, such as sgd or adamw{also}.')


def _scale_gate_rates(optimizer: torch.optim.Optimizer, model: nn.Module, scale: float) -> None:
    # groups of their own, by the mechanism of layer decay: an lr_scale, which multiplies the rate of the group
    gates = {id(p) for m in model.modules() if isinstance(m, IEBatchNorm2d) for p in (m.gate_weight, m.gate_bias)}
    groups = optimizer.param_groups
    if not any(id(p) in gates for group in groups for p in group['params']):
        raise UsageError(f'--gate-lr-scale is {scale:g}, but the network has no gates that are trained.\n'
                         f'Leave it out, or train an iebn_* network.')
    for group in list(groups):
        own = [p for p in group['params'] if id(p) in gates]
        group['params'] = [p for p in group['params'] if id(p) not in gates]
        if own:  # appended in place: an optimizer that wraps another shares its list of groups
            groups.append({**group, 'params': own, 'lr_scale': group.get('lr_scale', 1.0) * scale})
    groups[:] = [group for group in groups if group['params']]


def _schedule(args: OptimizerSettings, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Tuple[Any, int]:
    kwargs: Dict[str, Any] = scheduler_kwargs(args)
    if args.decay_epochs is None:
        del kwargs['decay_epochs']  # timm has a default for each schedule
    try:
        with warnings.catch_warnings():
            # timm warns that a resume loses the state of a plateau; training.engine.snapshot keeps it
            warnings.filterwarnings('ignore', 'PlateauLRScheduler is deprecated')
            made, epochs = create_scheduler_v2(optimizer, **kwargs, updates_per_epoch=updates_per_epoch)
    except (ValueError, AssertionError, TypeError, UnboundLocalError, ZeroDivisionError) as e:
        if args.sched == 'rsqrt' and args.warmup_epochs == 0:
            raise UsageError('--warmup-epochs is 0, and the rate of --sched rsqrt falls the faster the shorter the '
                             'warmup is.\nGive --warmup-epochs, at least 1.') from e
        raise UsageError(f'--sched {args.sched}: {first_line(e)}\n{_advice(args)}') from e
    if made is None and args.sched != 'none':  # timm before 1.0.31 is silent about a name that it does not know
        raise UsageError(f'--sched {args.sched}: timm {timm.__version__} has no such schedule.\n{_EXPECTED}')
    return made, epochs


def _advice(args: OptimizerSettings) -> str:
    rest = args.epochs - args.warmup_epochs
    if args.sched in _WITH_DECAY_AT_END and rest < 1:
        return f'Give more --epochs than --warmup-epochs, which is {args.warmup_epochs}.'
    if args.sched in _WITH_DECAY_AT_END:
        return (f'Give --decay-epochs from 1 to {rest}, the number of --epochs after the warmup, or a share of these '
                f'below 1 (default: 0.2).')
    return _EXPECTED
