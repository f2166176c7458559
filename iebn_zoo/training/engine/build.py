"""From a plan to a run that can begin: network, loaders, trainer, and the state of the checkpoint to resume.

Everything that can be wrong is found before the run directory is touched.
"""
import math
import sys
from dataclasses import replace
from functools import partial
from typing import Any, Dict, cast

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.model_ema import ModelEmaV3
from timm.utils.random import random_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from iebn_zoo.data.device_loader import device_loader
from iebn_zoo.data.images import LabelledImages
from iebn_zoo.data.loader import BatchLoader, make_loader
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.loss import make_loss
from iebn_zoo.training.config.notes import notes_on
from iebn_zoo.training.config.optimizer import make_optimizer
from iebn_zoo.training.engine import model_checks as checks
from iebn_zoo.training.engine.plan import Plan
from iebn_zoo.training.engine.run import Run
from iebn_zoo.training.engine.snapshot import machine, restore
from iebn_zoo.training.engine.step_graph import StepGraph, check_step_graph
from iebn_zoo.training.engine.stop import StopSignals
from iebn_zoo.training.engine.update import Trainer
from iebn_zoo.training.run import directory
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.training.run.origin import find_start
from iebn_zoo.training.run.repair import settle
from iebn_zoo.training.run.resume import (
    Found,
    check_fields,
    check_recipe,
    earlier_recipe,
    find_together,
    machine_changes,
    with_old_defaults,
)
from iebn_zoo.training.run.rotation import CheckpointStore
from iebn_zoo.util.progress import Progress
from iebn_zoo.weights.open import Start, architecture_args, start_network
from iebn_zoo.weights.settings import model_settings

# flags that name a file or directory which the run reads, and which may lie in the directory that --overwrite replaces
_SOURCES = ('initial_checkpoint', 'config', 'data_dir', 'mix_dataset')


def build(plan: Plan, lock: RunLock) -> Run:
    """Build the run, and take its directory.

    Args:
        plan: What to build.
        lock: Locks the run directory; the caller releases it.

    Raises:
        UsageError: The network, the data, the checkpoint or the directory do not fit the flags.
        IEBNZooError: A file cannot be read or written.
    """
    args, p = plan.args, plan.processes
    store = CheckpointStore(plan.output, args.checkpoint_hist, args.eval_metric)
    stop = StopSignals(args.stop_after)
    found = find_together(p, plan.output, lock, args.resume) if args.resume is not None else None
    if found is not None:
        plan = replace(plan, args=with_old_defaults(args, found.checkpoint))
        args = plan.args
    random_seed(args.seed, 0)  # the same first weights in every process
    begin = _start_network(plan, fresh=found is None)
    model, given = begin.model, None
    if found is None:
        given = find_start(args.flags(), begin.checkpoint, cast(Dict[str, Any], model.pretrained_cfg))
    _prepare_model(plan, model)
    model_args, data_config = architecture_args(model, plan.model_args), model_settings(model, args.flags())
    _check_model(plan, model, data_config)
    train_loader = _make_loader(plan, plan.train_images, data_config, train=True)
    eval_loader = _make_loader(plan, plan.eval_images, data_config, train=False)
    trainer = _make_trainer(plan, model, math.ceil(train_loader.batches_per_epoch / args.grad_accum_steps))
    run = Run(plan, lock, store, stop, trainer, train_loader, eval_loader, model_args, data_config,
              begin.description, given, fresh=found is None)
    for extension in plan.extensions:
        extension.prepare(run)
    random_seed(args.seed, p.rank)  # other dropout in each process
    if found is not None:
        _restore(run, found)
    # the others' logs must not lie in the directory before the first process has looked at it
    flags = args.flags()
    sources = {f"--{name.replace('_', '-')}": flags.get(name) for name in _SOURCES}
    p.on_first(lambda: directory.prepare(plan.output, args.resume is not None, args.overwrite, lock, sources))
    if p.first and found is not None:
        _mend(run, found)
    if p.first and found is None:
        digests = plan.data_digests
        for note in notes_on(args, plan.num_classes, train_loader.batches_per_epoch,
                             digests['train'] == digests['eval'], data_config['input_size'][-2:],
                             plan.unmeasured_classes, plan.class_names, begin.label_names):
            print(note, file=sys.stderr, flush=True)
    return run


def _start_network(plan: Plan, fresh: bool) -> Start:
    args = plan.args
    return start_network(args.model, args.pretrained and fresh, plan.model_args,
                         args.initial_checkpoint if fresh else None)


def _prepare_model(plan: Plan, model: nn.Module) -> None:
    if plan.args.grad_checkpointing:
        checks.checkpoint_gradients(model)
    for extension in plan.extensions:
        extension.prepare_model(model)


def _check_model(plan: Plan, model: nn.Module, data_config: Dict[str, Any]) -> None:
    checks.check_images(model, data_config)
    if plan.args.batch_size == 1:
        checks.check_batch_of_one(model, data_config)
    if plan.args.cuda_graph:
        check_step_graph(plan.args, model, plan.processes.device, plan.processes.world)


def _make_loader(plan: Plan, images: LabelledImages, data_config: Dict[str, Any], train: bool) -> BatchLoader:
    args, p = plan.args, plan.processes
    loader = make_loader(images, args, data_config, p.device, train, p.rank, p.world)
    in_memory = device_loader(loader, args if train else None, data_config, args.device_data, Progress)
    if not isinstance(in_memory, str):
        return in_memory
    if args.device_data and p.first:
        print(f"note: --device-data: {in_memory}; the loader prepares the {'training' if train else 'evaluation'} "
              f'images', file=sys.stderr, flush=True)
    return loader


def _make_trainer(plan: Plan, model: nn.Module, updates_per_epoch: int) -> Trainer:
    args, p = plan.args, plan.processes
    if args.sync_bn and p.many:
        model = convert_sync_batchnorm(model)
    model.to(p.device).to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    loss_fn, mixup = make_loss(args, plan.num_classes)
    optimizer, scheduler = make_optimizer(args, model, updates_per_epoch)
    ema = None
    if args.model_ema:
        ema = ModelEmaV3(model, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    ddp = None
    if p.many:
        ddp = DistributedDataParallel(model, device_ids=[p.device.index] if p.device.type == 'cuda' else None)
    forward = checks.compiled(model if ddp is None else ddp, args)
    scaler = torch.amp.GradScaler(p.device.type) if args.amp and args.amp_dtype == 'float16' else None
    trainer = Trainer(model, forward, loss_fn, optimizer, scheduler, args, p, ema, mixup, scaler, ddp)
    if args.cuda_graph:
        trainer.graph = StepGraph(partial(trainer.gradient, batches=args.grad_accum_steps), model)
    return trainer


def _restore(run: Run, found: Found) -> None:
    check_fields(found.path, found.checkpoint)
    now = dict(num_train_images=len(run.plan.train_images), data=run.data_digests, label_names=run.class_names)
    changed = check_recipe(found.checkpoint, run.args, vars(train_parser().parse_args([])), now)
    restore(run, found.checkpoint, changed)
    if changed:
        run.earlier.append(earlier_recipe(found.checkpoint))


def _mend(run: Run, found: Found) -> None:
    elsewhere = machine_changes(found.checkpoint['machine'], machine(run))
    if elsewhere:
        print(f"not bit-identical from here: {'; '.join(elsewhere)}", flush=True)
    print(f'resuming {found.path} at epoch {run.position.epoch}, step {run.position.step}', flush=True)
    settle(run.store, found)
    run.write_logs()
