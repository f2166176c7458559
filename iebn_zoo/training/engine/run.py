"""A run that has been built: its epochs, what it writes after each, and how it goes back."""
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, cast

import torch
from timm.utils.distributed import distribute_bn
from torch import nn

from iebn_zoo.data.device_loader import DeviceLoader
from iebn_zoo.data.loader import BatchLoader
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.epoch import NotFiniteError, Position, Span, train_one_epoch
from iebn_zoo.training.engine.evaluate import evaluate, metrics_line, note_on_amp
from iebn_zoo.training.engine.plan import Plan
from iebn_zoo.training.engine.snapshot import restore, snapshot
from iebn_zoo.training.engine.stop import Stopped, StopSignals
from iebn_zoo.training.engine.update import Trainer
from iebn_zoo.training.run import records
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.training.run.resume import find_together
from iebn_zoo.training.run.rotation import CheckpointStore
from iebn_zoo.util import ranking
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.processes import Processes, RankLog

_LARGE_SHARE = 0.1  # of the training images, left out of an epoch


@dataclass
class Run:
    """Everything that a run consists of.

    Attributes:
        plan: What the run was asked to do.
        lock: The lock on the run directory.
        store: The checkpoints.
        stop: The signals that end the run early.
        trainer: Makes the updates.
        train_loader: The batches of this process to train on.
        eval_loader: The batches of this process to evaluate on.
        model_args: The arguments with which timm makes the network.
        data_config: The preprocessing of the images.
        started_from: What the network starts from, in one line.
        start: What the first weights were, see ``find_start``; None where a run of an older version did not record it.
        fresh: The run begins; it is not resumed.
        position: Where the next update begins.
        rows: The rows of summary.csv, one per finished epoch.
        timing: The rows of timing.csv, one per finished epoch.
        skipped: The updates that the run leaves out, after a loss that was not finite.
        rollbacks: How often the run went back for such a loss.
        earlier: The recipes that the run was resumed from, see ``earlier_recipe``.
        curves: The picture of the first process, once training has begun.
        told_skipped: What the first process has said of the images that were skipped, by split.
    """

    plan: Plan
    lock: RunLock
    store: CheckpointStore
    stop: StopSignals
    trainer: Trainer
    train_loader: BatchLoader
    eval_loader: BatchLoader
    model_args: Dict[str, Any]
    data_config: Dict[str, Any]
    started_from: str
    start: Optional[Dict[str, Any]]
    fresh: bool
    position: Position = field(default_factory=Position)
    rows: List[records.Row] = field(default_factory=list)
    timing: List[records.Row] = field(default_factory=list)
    skipped: List[Span] = field(default_factory=list)
    rollbacks: int = 0
    earlier: List[Dict[str, Any]] = field(default_factory=list)
    curves: Optional[records.Curves] = None
    told_skipped: Dict[str, str] = field(default_factory=dict)

    @property
    def args(self) -> TrainSettings:
        """The flags."""
        return self.plan.args

    @property
    def processes(self) -> Processes:
        """This process among the others."""
        return self.plan.processes

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.processes.device

    @property
    def rank(self) -> int:
        return self.processes.rank

    @property
    def world(self) -> int:
        return self.processes.world

    @property
    def output(self) -> Path:
        """The run directory."""
        return self.plan.output

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.trainer.model

    @property
    def arch(self) -> str:
        """timm's name of the architecture."""
        return cast(Dict[str, Any], self.model.pretrained_cfg)['architecture']

    @property
    def class_names(self) -> Optional[List[str]]:
        """The names of the classes, or None."""
        return self.plan.class_names

    @property
    def extensions(self) -> List[Extension]:
        """What the flags of the callbacks ask for."""
        return self.plan.extensions

    @property
    def data_digests(self) -> Dict[str, str]:
        """The digests of all images that are read, which must be the same after a resume."""
        return {**self.plan.data_digests, **{k: v for e in self.extensions for k, v in e.data_digests().items()}}

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(self.train_loader.batches_per_epoch / self.args.grad_accum_steps)

    def train(self, argv: Sequence[str] = ()) -> None:
        """Train all remaining epochs.

        Args:
            argv: The arguments that were given, for environment.json.
        """
        args, first = self.args, self.processes.first
        started = time.perf_counter()
        environment = records.environment(self.device, self.world, argv)
        log = RankLog(self.output, self.processes)
        try:
            for extension in self.extensions:
                extension.run_start(self)
            trains = self.position.epoch < self.plan.epochs
            if first:  # an extension that cannot begin leaves a directory without a run
                if trains:  # else these flags and this machine have trained nothing
                    records.write_args(self.output, args.flags())
                    records.write_environment(self.output, environment)
                self.curves = records.Curves(self.output)
            slow = note_on_amp(args, self.device)
            if first and slow:
                print(slow, flush=True)
            if self.fresh:
                self._announce()
                self._save(self.position, {})  # an interrupt in the first epoch has something to resume from
            with self.stop:
                while self.position.epoch < self.plan.epochs:
                    try:
                        self._epoch(log)
                    except NotFiniteError as e:
                        self._go_back(e, log)
        finally:
            for extension in self.extensions:
                extension.close(self)
            for loader in (self.train_loader, self.eval_loader):
                loader.close()
            if self.curves is not None:
                self.curves.finish(self.rows)
        if first:
            best = ranking.best_row(self.rows, args.eval_metric)
            if best is not None:
                print(f"last epoch: {ranking.described(self.rows[-1], 'top1')}; best: "
                      f'{ranking.described(best, args.eval_metric)}; run in {self.output}')
            if trains:
                records.write_environment(self.output, dict(environment, seconds=time.perf_counter() - started))
            if best is not None and not math.isfinite(ranking.ranked_value(best, args.eval_metric)):
                raise IEBNZooError(f'the loss of the evaluation is finite after none of {len(self.rows)} epochs: no '
                                   f'weights in {self.output} are of use.\n'
                                   f'Try a lower --lr, --clip-grad or --no-amp.')

    def write_logs(self) -> None:
        """Write what tells of the finished epochs, or remove it where there are none."""
        if self.rows:
            if self.curves is not None:  # before summary.csv: whoever sees the last epoch there finds its curve
                self.curves.show(self.rows, at_once=self.position.epoch >= self.plan.epochs)
            records.write_summary(self.output, self.rows)
            records.write_timing(self.output, self.timing)
        else:
            records.remove_rows(self.output)  # the run has gone back to before the first epoch

    def _announce(self) -> None:
        if not self.processes.first:
            return
        print(self.started_from, flush=True)
        size, steps = self.args.batch_size, self.args.grad_accum_steps
        images = len(self.train_loader.dataset)
        print(f'{self.arch}: {sum(p.numel() for p in self.model.parameters()):,} parameters, '
              f'{images:,} training and {len(self.eval_loader.dataset):,} evaluation '
              f'images of {self.model_args["num_classes"]} classes, {size * steps * self.world} images per update '
              f'({size} x {steps} batches x {self.world} processes), on {self.device}', flush=True)
        held = sum(loader.images.nbytes for loader in (self.train_loader, self.eval_loader)
                   if isinstance(loader, DeviceLoader))
        if held:
            print(f'{held / 1e6:,.1f} MB of images in the memory of {self.device}', flush=True)
        left = images - self.train_loader.batches_per_epoch * size * self.world
        if left > _LARGE_SHARE * images:
            print(f'note: each epoch leaves out {left} of {images} training images, others each time, as they make no '
                  f'full batch; a smaller --batch-size leaves out fewer', flush=True)

    def _epoch(self, log: RankLog) -> None:
        t, args, many = self.trainer, self.args, self.processes.many
        epoch = self.position.epoch
        for extension in self.extensions:
            extension.epoch_start(self, epoch, self.position.step)
        row: records.Row = dict(epoch=epoch)
        trains = self.position.step < self.train_loader.batches_per_epoch
        measured = train_one_epoch(
            t, self.train_loader, self.position, self.extensions, self.skipped, lambda p: self._save(p, {}), self.stop)
        row['train_loss'] = measured.pop('train_loss')
        if many and args.dist_bn:
            distribute_bn(self.model, self.world, args.dist_bn == 'reduce')
        if many and t.ema is not None:
            # the first process's statistics, which are those that a checkpoint holds
            distribute_bn(t.ema.module, self.world, False)
        metrics, text = self._evaluate(row, trains)
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
        log.line(f"epoch {epoch} done, {measured['seconds']:.1f} s")
        if self.processes.first:
            self.write_logs()
            print(f"epoch {epoch}: train loss {row['train_loss']:.4f}  {text}  lr {row['lr']:.4g}  "
                  f"{measured['seconds']:.1f} s  {measured['images_per_second']:.0f} images/s", flush=True)
            if not math.isfinite(ranking.ranked_value(row, args.eval_metric)):
                print(f"warning: epoch {epoch}: the loss of the evaluation is {metrics['loss']}, so its accuracy means "
                      f'nothing and it is not the best epoch', file=sys.stderr, flush=True)
        self._tell_skipped()
        for extension in self.extensions:
            extension.epoch_written(self, row)
        received = [number for number in self.processes.gather(self.stop.received) if number is not None]
        if received and self.position.epoch < self.plan.epochs:
            raise Stopped(received[0], saved=True)

    def _tell_skipped(self) -> None:
        if not self.args.skip_corrupt:
            return
        for name, loader in (('training', self.train_loader), ('evaluation', self.eval_loader)):
            skipped = loader.dataset.skipped(self.processes.gather(loader.dataset.corrupt))  # each has read a share
            if self.processes.first and skipped and skipped != self.told_skipped.get(name):
                print(f'note: --skip-corrupt: {name}: {skipped} (so far)', file=sys.stderr, flush=True)
                self.told_skipped[name] = skipped

    def _evaluate(self, row: records.Row, trained: bool) -> Tuple[Dict[str, float], str]:
        """Measure the weights; adds columns to ``row``.

        Args:
            row: Of the epoch.
            trained: This call has made an update. Where it has not, the deadline does not end the evaluation: a run
                whose deadlines are shorter than its evaluation would never come further.

        Returns:
            The metrics of the weights that are ranked, and a line on all.
        """
        averaged, many = self.trainer.ema, self.processes.many
        # several processes cannot agree to stop during the evaluation: they do so after it
        common = (self.eval_loader, self.args, self.device)
        stop = None if many else (lambda: self.stop.received if trained else self.stop.signal)
        try:
            metrics = evaluate(self.model, *common, distributed=many, stop=stop)
            row.update({f'eval_{k}': metrics[k] for k in ('loss', 'top1', 'top5')})
            text = metrics_line(metrics)
            if averaged is not None:
                metrics = evaluate(averaged.module, *common, 'eval EMA', many, stop)
                row.update({f'eval_ema_{k}': metrics[k] for k in ('loss', 'top1', 'top5')})
                text += f'  {metrics_line(metrics, "EMA")}'
        except Stopped as e:
            self._save(self.position, {})  # the epoch has been trained, and is not evaluated yet
            raise Stopped(e.number, saved=True) from e
        return metrics, text

    def _save(self, position: Position, metrics: Mapping[str, Any]) -> None:
        content = snapshot(self, position, metrics)  # every process takes part
        if self.processes.first:
            (self.store.write_recovery if position.step else self.store.write)(content)

    def _go_back(self, error: NotFiniteError, log: RankLog) -> None:
        found = find_together(self.processes, self.output, self.lock)
        assert found is not None  # the run has written a checkpoint before its first epoch
        position = found.checkpoint['position']
        where = f"{found.path.name} holds the last good state (epoch {position['epoch']}, step {position['step']})"
        log.line(str(error))
        allowed = self.plan.rollbacks_allowed
        if self.rollbacks >= allowed:
            again = f' after {self.rollbacks} rollbacks' if self.rollbacks else ''
            raise IEBNZooError(
                f'{error}\n{where}; the run stops{again}.\n'
                f'Try a lower --lr, --clip-grad, --warmup-epochs or --on-nan rollback N.') from error
        skipped, rollbacks, earlier = [*self.skipped, error.span], self.rollbacks + 1, self.earlier
        # the checkpoint may be the one that the run was resumed from with other flags
        restore(self, found.checkpoint, new_recipe=len(found.checkpoint.get('earlier_recipes', [])) < len(earlier))
        self.skipped, self.rollbacks, self.earlier = skipped, rollbacks, earlier
        if self.processes.first:
            print(f'warning: {error}\n{where}. The run goes back to it and skips steps {error.span[1]} to '
                  f'{error.span[2]} (rollback {rollbacks} of {allowed}).', file=sys.stderr, flush=True)
