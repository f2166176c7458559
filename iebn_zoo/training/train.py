"""``train``: from flags to a run directory."""
import argparse
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch
from timm.utils import ModelEmaV3, distribute_bn, random_seed
from timm.utils.distributed import init_distributed_device_so
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from iebn_zoo.errors import UsageError
from iebn_zoo.training import log, run_directory, setup, state
from iebn_zoo.training.arguments import train_parser
from iebn_zoo.training.data import make_loader
from iebn_zoo.training.evaluate import evaluate, metrics_line
from iebn_zoo.training.images import open_images
from iebn_zoo.training.loop import Trainer, train_one_epoch
from iebn_zoo.training.recipe import parse_with_recipe


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    return train_parser()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/train.py and of ``iebn-zoo train``."""
    args = parse_with_recipe(build_parser(), argv)
    for name in ('model', 'data_dir', 'output'):
        if not getattr(args, name):
            flag = name.replace('_', '-')
            raise UsageError(f'no --{flag} given.\nExpected at least --model, --data-dir and --output.')
    train(args)
    return 0


def train(args: argparse.Namespace) -> Path:
    """Train by the flags of ``train_parser``; returns the run directory.

    Raises:
        UsageError: The flags, the data or the output directory do not fit.
        IEBNZooError: Something failed on the way; the last checkpoint stands.
    """
    setup.check_numbers(args, positive=('epochs', 'batch_size', 'log_interval', 'num_classes', 'img_size', 'in_chans'),
                        natural=('workers', 'checkpoint_hist', 'lr', 'weight_decay', 'warmup_epochs', 'seed'))
    device = setup.resolve_device(args.device)
    try:
        session = Session(args, device)
        session.run()
    except KeyboardInterrupt:
        if os.environ.get('RANK', '0') == '0':
            print(f'\nstopped; continue with the same command and --resume (state in {args.output}/{state.LAST})')
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return session.output


class Session:
    """A run from its first check to its curve."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.args, self.device = args, device
        self.output = Path(args.output)
        # everything that can be wrong with the flags and the data is found before the directory is touched
        mode = 'L' if args.in_chans == 1 else 'RGB'
        source = dict(name=args.dataset, root=args.data_dir, download=args.dataset_download, mode=mode)
        train_images = open_images(train=True, **source)
        eval_images = open_images(train=False, split=args.val_split, class_names=train_images.class_names, **source)
        self.class_names = train_images.class_names
        num_classes = setup.match_num_classes(args.num_classes, self.class_names)
        if num_classes is None:
            raise UsageError(f'{args.dataset} does not name its classes.\nGive --num-classes.')
        self.model_args = {k: v for k, v in dict(
            num_classes=num_classes, in_chans=args.in_chans, global_pool=args.gp, drop_rate=args.drop,
            drop_path_rate=args.drop_path).items() if v is not None}
        resumed = self._read_resume()
        self.store = state.CheckpointStore(self.output, args.checkpoint_hist, args.eval_metric == 'loss')

        dist_info = init_distributed_device_so(str(device))
        self.rank, self.world = dist_info['global_rank'], dist_info['world_size']
        random_seed(args.seed, 0)  # the same first weights everywhere
        self.model = setup.create_model(args.model, args.pretrained and resumed is None, **self.model_args)
        if args.initial_checkpoint and resumed is None:
            start = state.load_checkpoint(args.initial_checkpoint)
            weights = state.without_other_head(self.model, start['state_dict'])
            state.load_weights(self.model, weights, args.initial_checkpoint)
        if args.grad_checkpointing:
            self.model.set_grad_checkpointing()
        self.model_args = setup.architecture_args(self.model, self.model_args)
        self.data_config = setup.data_config(args, self.model)
        self.train_loader = make_loader(train_images, args, self.data_config, device, True, self.rank, self.world)
        self.eval_loader = make_loader(eval_images, args, self.data_config, device, False, self.rank, self.world)
        self.trainer = self._make_trainer(num_classes)
        self.rows: List[log.Row] = []
        self.start_epoch = 0
        random_seed(args.seed, self.rank)  # and different dropout
        if self.rank == 0:
            run_directory.prepare(self.output, args.resume is not None, args.overwrite)
        if resumed is not None:
            self._restore(resumed)

    def _read_resume(self) -> Optional[Dict[str, Any]]:
        if self.args.resume is None:
            return None
        path = self.output / state.LAST if self.args.resume == 'auto' else Path(self.args.resume)
        return state.load_checkpoint(path)

    def _make_trainer(self, num_classes: int) -> Trainer:
        args, model = self.args, self.model
        if args.sync_bn and self.world > 1:
            model = self.model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.to(self.device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
        loss_fn, mixup = setup.make_loss(args, num_classes)
        optimizer, scheduler = setup.make_optimizer(args, model, len(self.train_loader))
        ema = None
        if args.model_ema:
            ema = ModelEmaV3(model, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
        forward: Any = model
        if self.world > 1:
            forward = DistributedDataParallel(
                model, device_ids=[self.device.index] if self.device.type == 'cuda' else None)
        if args.torchcompile:
            forward = torch.compile(forward, backend=args.torchcompile)
        scaler = torch.amp.GradScaler(self.device.type) if args.amp and args.amp_dtype == 'float16' else None
        return Trainer(
            model, forward, loss_fn, optimizer, scheduler, args, self.device, ema, mixup, scaler, self.world > 1)

    def _restore(self, checkpoint: Dict[str, Any]) -> None:
        t, arch = self.trainer, self.model.pretrained_cfg['architecture']
        if checkpoint['arch'] != arch or checkpoint['model_args'] != self.model_args:
            raise UsageError(
                f"the run in {self.output} trains {checkpoint['arch']} {checkpoint['model_args']}, "
                f'not {arch} {self.model_args}.\nResume it with the flags it was started with.')
        state.load_weights(self.model, checkpoint['state_dict'], 'the checkpoint')
        if t.ema is not None and 'state_dict_ema' in checkpoint:
            state.load_weights(t.ema.module, checkpoint['state_dict_ema'], 'the checkpoint (EMA)')
        t.optimizer.load_state_dict(checkpoint['optimizer'])
        if t.scaler is not None and checkpoint.get('scaler'):
            t.scaler.load_state_dict(checkpoint['scaler'])
        t.updates = checkpoint['updates']
        self.rows = checkpoint['rows']
        self.store.restore(checkpoint)
        self.start_epoch = checkpoint['epoch'] + 1
        if t.scheduler is not None:
            t.scheduler.step(self.start_epoch)
            t.scheduler.step_update(t.updates)
        states = checkpoint['rng']
        state.set_rng_state(states[self.rank % len(states)], self.device)

    def _checkpoint(self, epoch: int, metrics: Dict[str, Any]) -> Dict[str, Any]:
        t = self.trainer
        rng = state.rng_state(self.device)
        states = [rng]
        if self.world > 1:
            states = [None] * self.world
            dist.all_gather_object(states, rng)
        checkpoint = dict(
            arch=self.model.pretrained_cfg['architecture'], model_args=self.model_args, epoch=epoch,
            state_dict=self.model.state_dict(), optimizer=t.optimizer.state_dict(),
            scaler=t.scaler.state_dict() if t.scaler is not None else None, updates=t.updates, rng=states,
            rows=self.rows, metrics=metrics, data_config=self.data_config, label_names=self.class_names,
            num_eval_images=metrics.get('count', len(self.eval_loader.dataset)), args=vars(self.args))
        if t.ema is not None:
            checkpoint['state_dict_ema'] = t.ema.module.state_dict()
        return checkpoint

    def run(self) -> None:
        """All remaining epochs."""
        args, first = self.args, self.rank == 0
        started = time.perf_counter()
        environment = log.environment(self.device, self.world)
        if first:
            log.write_args(self.output, vars(args))
            log.write_environment(self.output, environment)
            if self.start_epoch == 0:
                print(f"{self.model.pretrained_cfg['architecture']}: "
                      f'{sum(p.numel() for p in self.model.parameters()):,} parameters, '
                      f'{len(self.train_loader.dataset):,} training and {len(self.eval_loader.dataset):,} evaluation '
                      f'images of {self.model_args["num_classes"]} classes, on {self.device}', flush=True)
        if self.start_epoch == 0:
            checkpoint = self._checkpoint(-1, {})  # an interrupt in the first epoch has something to resume from
            if first:
                self.store.write(checkpoint)
        for epoch in range(self.start_epoch, args.epochs):
            self._epoch(epoch)
        if first:
            if self.rows:
                log.plot_curves(self.output, self.rows)
                last = self.rows[-1]
                best = self.store.best
                print(f"last epoch top-1 {last['eval_top1']:.2f}, best {args.eval_metric} {best[0]:.4g} "
                      f'(epoch {best[1]}); run in {self.output}')
            log.write_environment(self.output, dict(environment, seconds=time.perf_counter() - started))

    def _epoch(self, epoch: int) -> None:
        t, args = self.trainer, self.args
        row: log.Row = dict(epoch=epoch)
        measured = train_one_epoch(t, self.train_loader, epoch)
        row['train_loss'] = measured.pop('train_loss')
        if self.world > 1 and args.dist_bn:
            distribute_bn(self.model, self.world, args.dist_bn == 'reduce')
        metrics = evaluate(self.model, self.eval_loader, args, self.device, distributed=self.world > 1)
        row.update({f'eval_{k}': metrics[k] for k in ('loss', 'top1', 'top5')})
        text = metrics_line(metrics)
        if t.ema is not None:
            metrics = evaluate(t.ema.module, self.eval_loader, args, self.device, 'eval EMA', self.world > 1)
            row.update({f'eval_ema_{k}': metrics[k] for k in ('loss', 'top1', 'top5')})
            text += f'  {metrics_line(metrics, "EMA")}'
        row.update(measured)
        self.rows.append(row)
        if t.scheduler is not None:
            t.scheduler.step(epoch + 1, metrics[args.eval_metric])
        self.store.rank(metrics[args.eval_metric], epoch)
        checkpoint = self._checkpoint(epoch, dict(row, count=metrics['count']))
        if self.rank == 0:
            self.store.write(checkpoint)
            log.write_summary(self.output, self.rows)
            print(f"epoch {epoch}: train loss {row['train_loss']:.4f}  {text}  lr {row['lr']:.4g}  "
                  f"{row['seconds']:.1f} s  {row['images_per_second']:.0f} images/s", flush=True)

