"""A run from its first check to its curve."""
import argparse
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.distributed import distribute_bn
from timm.utils.model_ema import ModelEmaV3
from timm.utils.random import random_seed
from torch.nn.parallel import DistributedDataParallel

from iebn_zoo.data.device_loader import DeviceLoader, device_loader
from iebn_zoo.data.images import LabelledImages
from iebn_zoo.data.loader import BatchLoader, make_loader
from iebn_zoo.training.callbacks.base import create_extensions
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.images import open_splits
from iebn_zoo.training.config.limits import rollbacks
from iebn_zoo.training.config.loss import make_loss
from iebn_zoo.training.config.model import match_num_classes, model_args
from iebn_zoo.training.config.optimizer import make_optimizer, training_epochs
from iebn_zoo.training.engine.epoch import NotFiniteError, Position, Span, train_one_epoch
from iebn_zoo.training.engine.evaluate import evaluate, metrics_line
from iebn_zoo.training.engine.model_checks import (
    check_batch_of_one,
    check_images,
    check_sync_bn,
    checkpoint_gradients,
    compiled,
)
from iebn_zoo.training.engine.snapshot import machine, restore, snapshot
from iebn_zoo.training.engine.step_graph import StepGraph, check_step_graph
from iebn_zoo.training.engine.stop import Stopped, StopSignals
from iebn_zoo.training.engine.update import Trainer
from iebn_zoo.training.run import directory as run_directory
from iebn_zoo.training.run import ranking, records
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.training.run.origin import find_start
from iebn_zoo.training.run.repair import settle
from iebn_zoo.training.run.resume import Found, check_fields, check_recipe, find_checkpoint, machine_changes
from iebn_zoo.training.run.rotation import CheckpointStore
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.processes import RankLog, start
from iebn_zoo.util.progress import Progress
from iebn_zoo.weights.open import architecture_args, start_network
from iebn_zoo.weights.settings import model_settings

_LARGE_SHARE = 0.1  # of the training images, left out of an epoch


class Session:
    """Everything a run is made of, and its epochs.

    Attributes:
        args: The flags.
        device: Of the model.
        lock: On the run directory, once it is taken.
        processes: This process among the others.
        output: The run directory.
        epochs: To train.
        model: The network.
        started_from: What it starts from, in one line.
        model_args: With which timm makes it.
        data_config: Preprocessing.
        class_names: Of the data, or None.
        data_digests: Of the images to train and to evaluate on: what must be the same after a resume.
        train_loader: Of this process.
        eval_loader: Of this process.
        trainer: Makes the updates.
        extensions: What the flags add.
        store: The checkpoints.
        position: Where the next update begins.
        rows: Of summary.csv, one a finished epoch.
        timing: Of timing.csv, one a finished epoch.
        skipped: Updates that are passed over, after a loss that was not finite.
        rollbacks: How often the run went back for that.
        start: What the first weights were, see ``find_start``; None where a run of an older version did not record it.
        fresh: The run begins, it is not resumed.
        curves: The picture, of the first process, once training has begun.
        stop: The signals that end the run early.
    """

    def __init__(self, args: argparse.Namespace, device: torch.device, lock: RunLock) -> None:
        self.args, self.device, self.lock = args, device, lock
        self.output = Path(args.output)
        # everything that can be wrong with the flags and the data is found before the directory is touched
        self.rollbacks_allowed = rollbacks(args)
        self.epochs = training_epochs(args)
        self.processes = p = start(device)
        check_sync_bn(args, p)
        train_images, eval_images = open_splits(args, p)
        self.class_names = train_images.class_names
        self.data_digests = dict(train=train_images.digest, eval=eval_images.digest)
        num_classes = match_num_classes(args.num_classes, self.class_names)
        if num_classes is None:
            raise UsageError(f'{args.dataset} does not name its classes.\nGive --num-classes.')
        self.model_args = model_args(args, num_classes)
        self.extensions = create_extensions(args)
        self.store = CheckpointStore(self.output, args.checkpoint_hist, args.eval_metric)
        self.position = Position()
        self.rows: List[records.Row] = []
        self.timing: List[records.Row] = []
        self.skipped: List[Span] = []
        self.rollbacks = 0
        self.curves: Optional[records.Curves] = None
        self.stop = StopSignals(args.stop_after)
        self.start: Optional[Dict[str, Any]] = None
        found = self._find(args.resume) if args.resume is not None else None
        self.fresh = found is None

        random_seed(args.seed, 0)  # the same first weights everywhere
        self.model = self._make_model(fresh=found is None)
        self.model_args = architecture_args(self.model, self.model_args)
        self.data_config = model_settings(self.model, vars(args))
        check_images(self.model, self.data_config)
        if args.batch_size == 1:
            check_batch_of_one(self.model, self.data_config)
        if args.cuda_graph:
            check_step_graph(args, self.model, device, p.world)
        self.train_loader = self._make_loader(train_images, train=True)
        self.eval_loader = self._make_loader(eval_images, train=False)
        self.trainer = self._make_trainer(num_classes)
        for extension in self.extensions:
            extension.prepare(self)
        random_seed(args.seed, p.rank)  # and different dropout
        if found is not None:
            check_fields(found.path, found.checkpoint)
            now = dict(num_train_images=len(train_images), data=self.data_digests, label_names=self.class_names)
            changed = check_recipe(found.checkpoint, args, train_parser().parse_args([]), now)
            restore(self, found.checkpoint, changed)
        self._prepare_directory()
        if p.first and found is not None:
            self._heal(found)

    @property
    def rank(self) -> int:
        return self.processes.rank

    @property
    def world(self) -> int:
        return self.processes.world

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(self.train_loader.batches_per_epoch / self.args.grad_accum_steps)

    def _prepare_directory(self) -> None:
        failed: Any = None
        if self.processes.first:
            try:
                run_directory.prepare(self.output, self.args.resume is not None, self.args.overwrite, self.lock)
            except IEBNZooError as e:
                failed = e
        failed = self.processes.broadcast(failed)  # the others' logs must not lie there before it has been looked at
        if failed is not None:
            raise failed

    def _find(self, asked: str) -> Optional[Found]:
        found: Any = None
        if self.processes.first:  # another machine may not see the directory
            try:
                if self.output.is_dir():
                    self.lock.acquire(self.output)  # what is found must not become old while it is read
                found = find_checkpoint(self.output, asked)
            except IEBNZooError as e:
                found = e
        found = self.processes.broadcast(found)
        if isinstance(found, IEBNZooError):
            raise found
        return found

    def _make_model(self, fresh: bool) -> torch.nn.Module:
        args = self.args
        start = start_network(
            args.model, args.pretrained and fresh, self.model_args, args.initial_checkpoint if fresh else None)
        model, self.started_from = start.model, start.description
        if fresh:
            self.start = find_start(vars(args), start.checkpoint, model.pretrained_cfg)
        if args.grad_checkpointing:
            checkpoint_gradients(model)
        for extension in self.extensions:
            extension.prepare_model(model)
        return model

    def _make_loader(self, images: LabelledImages, train: bool) -> BatchLoader:
        args, p = self.args, self.processes
        loader = make_loader(images, args, self.data_config, self.device, train, p.rank, p.world)
        in_memory = device_loader(loader, args, self.data_config, train, Progress)
        if not isinstance(in_memory, str):
            return in_memory
        if args.device_data and p.first:
            print(f"note: --device-data: {in_memory}; the loader prepares the {'training' if train else 'evaluation'} "
                  f'images', file=sys.stderr, flush=True)
        return loader

    def _make_trainer(self, num_classes: int) -> Trainer:
        args, p = self.args, self.processes
        if args.sync_bn and p.many:
            self.model = convert_sync_batchnorm(self.model)
        model = self.model
        model.to(self.device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
        loss_fn, mixup = make_loss(args, num_classes)
        optimizer, scheduler = make_optimizer(args, model, self.updates_per_epoch)
        ema = None
        if args.model_ema:
            ema = ModelEmaV3(model, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
        forward: Any = model
        ddp = None
        if p.many:
            forward = ddp = DistributedDataParallel(
                model, device_ids=[self.device.index] if self.device.type == 'cuda' else None)
        forward = compiled(forward, args)
        scaler = torch.amp.GradScaler(self.device.type) if args.amp and args.amp_dtype == 'float16' else None
        trainer = Trainer(model, forward, loss_fn, optimizer, scheduler, args, p, ema, mixup, scaler, ddp)
        if args.cuda_graph:
            trainer.graph = StepGraph(partial(trainer.gradient, batches=args.grad_accum_steps), model)
        return trainer

    def _heal(self, found: Found) -> None:
        elsewhere = machine_changes(found.checkpoint['machine'], machine(self))
        if elsewhere:
            print(f"not bit-identical from here: {'; '.join(elsewhere)}", flush=True)
        print(f'resuming {found.path} at epoch {self.position.epoch}, step {self.position.step}', flush=True)
        settle(self.store, found)
        self._write_logs()

    def run(self, argv: Sequence[str] = ()) -> None:
        """All remaining epochs; ``argv``: the arguments that were given, for the log."""
        args, first = self.args, self.processes.first
        started = time.perf_counter()
        environment = records.environment(self.device, self.world, argv)
        self.rank_log = RankLog(self.output, self.processes)
        if first:
            records.write_args(self.output, vars(args))
            records.write_environment(self.output, environment)
        self.curves = records.Curves(self.output) if first else None
        try:
            for extension in self.extensions:
                extension.run_start(self)
            if self.fresh:
                self._announce()
                self._save(self.position, {})  # an interrupt in the first epoch has something to resume from
            with self.stop:
                while self.position.epoch < self.epochs:
                    try:
                        self._epoch()
                    except NotFiniteError as e:
                        self._go_back(e)
        finally:
            for extension in self.extensions:
                extension.close(self)
            if first:
                self.curves.finish(self.rows)
        if first:
            if self.rows:
                last = self.rows[-1]
                best = ranking.best_row(self.rows, args.eval_metric)
                print(f"last epoch: {ranking.described(last, 'top1')}; best: "
                      f'{ranking.described(best, args.eval_metric)}; run in {self.output}')
            records.write_environment(self.output, dict(environment, seconds=time.perf_counter() - started))

    def _announce(self) -> None:
        if not self.processes.first:
            return
        print(self.started_from, flush=True)
        per_update = self.args.batch_size * self.args.grad_accum_steps * self.world
        print(f"{self.model.pretrained_cfg['architecture']}: "
              f'{sum(p.numel() for p in self.model.parameters()):,} parameters, '
              f'{len(self.train_loader.dataset):,} training and {len(self.eval_loader.dataset):,} evaluation '
              f'images of {self.model_args["num_classes"]} classes, {per_update} images an update '
              f'({self.args.batch_size} x {self.args.grad_accum_steps} batches x {self.world} processes), '
              f'on {self.device}', flush=True)
        held = sum(loader.images.nbytes for loader in (self.train_loader, self.eval_loader)
                   if isinstance(loader, DeviceLoader))
        if held:
            print(f'{held / 1e6:,.1f} MB of images in the memory of {self.device}', flush=True)
        images, used = len(self.train_loader.dataset), self.train_loader.batches_per_epoch * self.args.batch_size
        left = images - used * self.world
        if left > _LARGE_SHARE * images:
            print(f'note: each epoch leaves out {left} of {images} training images, others each time, as they make no '
                  f'full batch; a smaller --batch-size leaves out fewer', flush=True)

    def _epoch(self) -> None:
        t, args, many = self.trainer, self.args, self.processes.many
        epoch = self.position.epoch
        for extension in self.extensions:
            extension.epoch_start(self, epoch, self.position.step)
        row: records.Row = dict(epoch=epoch)
        measured = train_one_epoch(
            t, self.train_loader, self.position, self.extensions, self.skipped, lambda p: self._save(p, {}), self.stop)
        row['train_loss'] = measured.pop('train_loss')
        if many and args.dist_bn:
            distribute_bn(self.model, self.world, args.dist_bn == 'reduce')
        if many and t.ema is not None:
            # the first process's, which are those a checkpoint holds
            distribute_bn(t.ema.module, self.world, False)
        metrics, text = self._evaluate(row)
        row['lr'] = measured.pop('lr')
        for extension in self.extensions:
            extension.epoch_end(self, row)
        self.rows.append(row)
        self.timing.append(dict(epoch=epoch, **measured))
        if t.scheduler is not None:
            t.scheduler.step(epoch + 1, metrics[args.eval_metric])
        self.store.rank(ranking.ranked_value(row, args.eval_metric), epoch)
        self.position = Position(epoch + 1)
        self._save(self.position, dict(row, count=metrics['count']))
        self.rank_log.line(f"epoch {epoch} done, {measured['seconds']:.1f} s")
        if self.processes.first:
            self._write_logs()
            print(f"epoch {epoch}: train loss {row['train_loss']:.4f}  {text}  lr {row['lr']:.4g}  "
                  f"{measured['seconds']:.1f} s  {measured['images_per_second']:.0f} images/s", flush=True)
        for extension in self.extensions:
            extension.epoch_written(self, row)
        received = [number for number in self.processes.gather(self.stop.received) if number is not None]
        if received and self.position.epoch < self.epochs:
            raise Stopped(received[0], saved=True)

    def _evaluate(self, row: records.Row) -> Tuple[Dict[str, float], str]:
        """Metrics of the weights that are ranked, and a line on all; adds columns to ``row``."""
        averaged, many = self.trainer.ema, self.processes.many
        # the processes of many cannot agree to stop in here: they do behind it
        common = (self.eval_loader, self.args, self.device)
        stop = None if many else self.stop
        try:
            metrics = evaluate(self.model, *common, distributed=many, stop=stop)
            row.update({f'eval_{k}': metrics[k] for k in ('loss', 'top1', 'top5')})
            text = metrics_line(metrics)
            if averaged is not None:
                metrics = evaluate(averaged.module, *common, 'eval EMA', many, stop)
                row.update({f'eval_ema_{k}': metrics[k] for k in ('loss', 'top1', 'top5')})
                text += f'  {metrics_line(metrics, "EMA")}'
        except Stopped as e:
            self._save(self.position, {})  # the epoch is trained, and is not evaluated yet
            raise Stopped(e.number, saved=True) from e
        return metrics, text

    def _save(self, position: Position, metrics: Mapping[str, Any]) -> None:
        content: Dict[str, Any] = snapshot(self, position, metrics)
        if self.processes.first:
            (self.store.write_recovery if position.step else self.store.write)(content)

    def _write_logs(self) -> None:
        if self.rows:
            if self.curves is not None:  # before summary.csv: whoever sees the last epoch there finds its curve
                self.curves.show(self.rows, at_once=self.position.epoch >= self.epochs)
            records.write_summary(self.output, self.rows)
            records.write_timing(self.output, self.timing)
        else:
            records.remove_rows(self.output)  # the run has gone back to before the first

    def _go_back(self, error: NotFiniteError) -> None:
        found = self._find('auto')
        position = found.checkpoint['position']
        where = f"{found.path.name} holds the last good state (epoch {position['epoch']}, step {position['step']})"
        self.rank_log.line(str(error))
        if self.rollbacks >= self.rollbacks_allowed:
            again = f' after {self.rollbacks} rollbacks' if self.rollbacks else ''
            raise IEBNZooError(
                f'{error}\n{where}; the run stops{again}.\n'
                f'Try a lower --lr, --clip-grad, --warmup-epochs or --on-nan rollback N.') from error
        skipped, rollbacks = [*self.skipped, error.span], self.rollbacks + 1
        restore(self, found.checkpoint)
        self.skipped, self.rollbacks = skipped, rollbacks
        if self.processes.first:
            print(f'warning: {error}\n{where}: back to it, passing over steps {error.span[1]} to {error.span[2]} '
                  f'(rollback {rollbacks} of {self.rollbacks_allowed})', file=sys.stderr, flush=True)
