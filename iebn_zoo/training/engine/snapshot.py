"""What the state of a run consists of: a run as the content of a checkpoint, and back."""
import copy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

import torch

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.start import PAPER
from iebn_zoo.training.config.optimizer import OPTIMIZER_FLAGS, make_optimizer
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.epoch import Position
from iebn_zoo.training.engine.random_state import rng_state, set_rng_state
from iebn_zoo.training.run.checkpoint import load_weights
from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line

if TYPE_CHECKING:
    from iebn_zoo.training.engine.run import Run

_PLATEAU_MEMORY = ('best', 'num_bad_epochs', 'cooldown_counter', 'last_epoch')


def snapshot(run: 'Run', position: Position, metrics: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the state of ``run`` between two updates; every process must call it.

    Args:
        run: The run.
        position: Where the next update begins.
        metrics: The metrics of the epoch that has just been finished, or none.
    """
    t, p = run.trainer, run.processes
    own = p.gather(dict(rng=rng_state(p.device), loss_sum=position.loss_sum))
    content = dict(
        arch=run.arch, model_args=run.model_args, epoch=position.epoch - 1,
        state_dict=run.model.state_dict(), optimizer=t.optimizer.state_dict(),
        scaler=t.scaler.state_dict() if t.scaler is not None else None, scheduler=_scheduler_state(t.scheduler),
        updates=t.updates, updates_per_epoch=run.updates_per_epoch, position=asdict(position),
        rng=[o['rng'] for o in own], loss_sums=[o['loss_sum'] for o in own], batch_size=run.args.batch_size,
        skipped=list(run.skipped), rollbacks=run.rollbacks,
        extensions={e.name: e.state_dict() for e in run.extensions},
        rows=run.rows, timing=run.timing, metrics=dict(metrics), data_config=run.data_config,
        label_names=run.class_names, data=run.data_digests, num_train_images=len(run.train_loader.dataset),
        num_eval_images=metrics.get('count', len(run.eval_loader.dataset)), args=run.args.flags(),
        machine=machine(run), start=run.start, earlier_recipes=list(run.earlier))
    if t.ema is not None:
        content['state_dict_ema'] = t.ema.module.state_dict()
    return content


def machine(run: 'Run') -> Dict[str, Any]:
    """Return what the bits of a run depend on besides its recipe."""
    return dict(processes=run.processes.world, device=run.processes.device.type,
                threads=torch.get_num_threads(), torch=str(torch.__version__))


def restore(run: 'Run', checkpoint: Mapping[str, Any], new_recipe: bool = False) -> None:
    """Set ``run`` to the state that ``snapshot`` returned.

    Args:
        run: A run with the same network.
        checkpoint: What ``snapshot`` returned.
        new_recipe: The flags differ from the checkpoint's. Learning rate, decay and momentum are then those of the
            flags; a plateau schedule keeps the rate it has reached, unless ``--lr`` differs.

    Raises:
        UsageError: The checkpoint is of another network.
        IEBNZooError: The weights do not fit.
    """
    try:
        _restore(run, checkpoint, new_recipe)
    except IEBNZooError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        # the checksum shows that the file is whole, not that training wrote it
        raise IEBNZooError(f'the checkpoint cannot be resumed: {type(e).__name__} {first_line(e)}.\n'
                           f'Expected one of iebn-zoo train, of this network and these flags.') from e


def _restore(run: 'Run', checkpoint: Mapping[str, Any], new_recipe: bool) -> None:
    t, p = run.trainer, run.processes
    arch = run.arch
    if 'start' in run.model_args and 'start' not in run.plan.model_args:  # no flag names it
        _keep_start(run, checkpoint['model_args'].get('start', PAPER))
    # a checkpoint of an earlier version has no start, and its weights do not need one
    now = {k: v for k, v in run.model_args.items() if k != 'start' or k in checkpoint['model_args']}
    if checkpoint['arch'] != arch or checkpoint['model_args'] != now:
        advice = f'--model {checkpoint["arch"]}' if checkpoint['model_args'] == now else 'the flags it was started with'
        raise UsageError(
            f"the run in {run.output} trains {checkpoint['arch']} {checkpoint['model_args']}, "
            f'not {arch} {run.model_args}.\nResume it with {advice}.')
    load_weights(run.model, checkpoint['state_dict'], 'the checkpoint')
    if t.ema is not None:
        # the flag may be new: then the average starts from the weights
        averaged = checkpoint.get('state_dict_ema', checkpoint['state_dict'])
        load_weights(t.ema.module, averaged, 'the checkpoint (EMA)')
    fresh = [{k: v for k, v in group.items() if k != 'params'} for group in t.optimizer.param_groups]
    _load_optimizer(t.optimizer, checkpoint['optimizer'])
    if new_recipe:
        _check_optimizer(run, checkpoint)
    if t.scaler is not None and checkpoint.get('scaler'):
        t.scaler.load_state_dict(checkpoint['scaler'])
    run.rows, run.timing = list(checkpoint['rows']), list(checkpoint['timing'])
    run.skipped, run.rollbacks = [tuple(s) for s in checkpoint['skipped']], checkpoint['rollbacks']
    run.start, run.earlier = checkpoint.get('start'), list(checkpoint.get('earlier_recipes', []))
    run.store.restore(checkpoint)
    for extension in run.extensions:
        if extension.name in checkpoint['extensions']:
            extension.load_state_dict(checkpoint['extensions'][extension.name])
    run.position = _position(run, checkpoint)
    _restore_schedule(run, checkpoint, fresh if new_recipe else None)
    if p.rank < len(checkpoint['rng']):  # a new process keeps the generators of its seed
        set_rng_state(checkpoint['rng'][p.rank], p.device)


def _keep_start(run: 'Run', start: str) -> None:
    """Let the network have the start that it began with: the default may be another than in the version of then."""
    run.model_args['start'] = start
    vars(run.model)['start'] = start
    for module in run.model.modules():
        if isinstance(module, IEBatchNorm2d):
            module.start = start


def _load_optimizer(optimizer: torch.optim.Optimizer, content: Dict[str, Any]) -> None:
    try:
        optimizer.load_state_dict(content)
    except (ValueError, KeyError) as e:
        raise _of_another_optimizer(str(e).splitlines()[0]) from e


def _of_another_optimizer(reason: str) -> UsageError:
    return UsageError(
        f'the checkpoint is of another optimizer: {reason}\n'
        f'Resume with the flags it was started with (--gate-lr-scale 1 undoes that flag and keeps its groups of '
        f'parameters); --initial-checkpoint takes its weights alone.')


def _check_optimizer(run: 'Run', checkpoint: Mapping[str, Any]) -> None:
    """Refuse a state that the optimizer could not use: torch loads any, and the first update would fail."""
    then, now = checkpoint['args'], run.args.flags()
    if all(then.get(name, now[name]) == now[name] for name in OPTIMIZER_FLAGS):
        return
    model = copy.deepcopy(run.model)
    trial, _ = make_optimizer(run.args, model, run.updates_per_epoch)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trial.step()
    for used, loaded in zip(_states(trial), _states(run.trainer.optimizer), strict=True):
        if loaded and not used.keys() <= loaded.keys():
            raise _of_another_optimizer(
                f"--opt {run.args.opt} keeps {', '.join(used)} of each parameter, and it has {', '.join(loaded)} of "
                f"--opt {then.get('opt')}.")


def _states(optimizer: torch.optim.Optimizer) -> List[Dict[str, Any]]:
    return [optimizer.state.get(parameter, {}) for group in optimizer.param_groups for parameter in group['params']]


def _position(run: 'Run', checkpoint: Mapping[str, Any]) -> Position:
    position = Position(**checkpoint['position'])
    sums: List[float] = checkpoint['loss_sums']
    p, size, then = run.processes, run.args.batch_size, checkpoint['batch_size']
    if (p.world, size) == (len(sums), then):
        position.loss_sum = sums[p.rank]
        return position
    # the epoch has the same order, dealt over the processes in turn: the same images are done, rounded down
    done = position.step * then * len(sums) // (size * p.world)
    position.step = done - done % run.args.grad_accum_steps
    position.images = position.images * len(sums) // p.world
    position.loss_sum = sum(sums) / p.world
    return position


def _restore_schedule(run: 'Run', checkpoint: Mapping[str, Any], fresh: Optional[List[Dict[str, Any]]]) -> None:
    # fresh: the settings of each group of the optimizer by the flags of a changed recipe
    t, now = run.trainer, run.updates_per_epoch
    then = checkpoint.get('updates_per_epoch', now)  # a checkpoint of an earlier version lacks it
    t.updates = checkpoint['updates'] if now == then else round(checkpoint['updates'] * now / then)
    groups, scheduler = t.optimizer.param_groups, t.scheduler
    if fresh is not None:
        reached = [group['lr'] / group.get('lr_scale', 1.0) for group in groups]  # a flag may change the scale
        for group, values in zip(groups, fresh, strict=True):
            group.update(values)
        if scheduler is not None and checkpoint['scheduler'] and hasattr(scheduler, 'lr_scheduler'):
            _go_on_from_plateau(run.args, scheduler, checkpoint, reached)
        if scheduler is not None:
            scheduler.step(run.position.epoch)
            scheduler.step_update(t.updates)
    elif scheduler is not None:
        _load_scheduler(scheduler, checkpoint['scheduler'])
        if now != then:  # other processes: the same update is at another place of the schedule
            scheduler.step_update(t.updates)


def _go_on_from_plateau(
        args: TrainSettings, scheduler: Any, checkpoint: Mapping[str, Any], reached: List[float],
) -> None:
    # the rates are those it has reached, no function of the epoch; the settings are those of the flags
    then, content = checkpoint['args'], checkpoint['scheduler']
    if then.get('eval_metric') == args.eval_metric:
        vars(scheduler.lr_scheduler).update({k: content['inner'][k] for k in _PLATEAU_MEMORY})
    if then.get('lr') == args.lr:
        scheduler.restore_lr = content['restore_lr']
        for group, lr in zip(scheduler.optimizer.param_groups, reached, strict=True):
            group['lr'] = lr * group.get('lr_scale', 1.0)


def _scheduler_state(scheduler: Any) -> Dict[str, Any]:
    # timm's schedules are functions of epoch and update, and their rates are part of the optimizer's state. Only
    # plateau has a memory, of which timm saves half
    inner = getattr(scheduler, 'lr_scheduler', None)
    if inner is None:
        return {}
    plain = {k: v for k, v in vars(inner).items() if isinstance(v, (bool, int, float, str))}
    return dict(inner=plain, restore_lr=scheduler.restore_lr)


def _load_scheduler(scheduler: Any, content: Dict[str, Any]) -> None:
    if content:
        vars(scheduler.lr_scheduler).update(content['inner'])
        scheduler.restore_lr = content['restore_lr']
