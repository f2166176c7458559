"""A small finished run: a real model and checkpoint, with the log beside it."""
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import timm
import torch
import yaml

import iebn_zoo  # noqa: F401  registers
from iebn_zoo.training.run.checkpoint import BEST, LAST, save_checkpoint
from iebn_zoo.training.run.records import plot_curves, write_summary

NASTY = ['a|b', '---', 'x\ny: z', '<script>alert(1)</script>', '"quoted" \'it\'', '`code`', '# head',
         'ünï 文字', '1. one']


def make_run(run: Path, arch: str = 'iebn_resnet20_cifar', labels: Optional[List[str]] = None, ema: bool = True,
             in_chans: int = 3, size: int = 32, model_kwargs: Optional[Dict[str, Any]] = None, **args: Any) -> Path:
    run.mkdir(parents=True)
    labels = labels or ['ant', 'bee', 'cat', 'dog']
    model_args: Dict[str, Any] = dict(num_classes=len(labels), in_chans=in_chans, drop_rate=0.1)
    if arch.endswith('_cifar'):
        model_args['layers'] = [1, 1, 1]
    model_args.update(model_kwargs or {})
    rows = []
    for epoch in range(3):
        row = dict(epoch=epoch, train_loss=2.5 - epoch / 7, eval_loss=1.25 - epoch / 9,
                   eval_top1=50 + [1, 13, 7][epoch] / 3, eval_top5=90.5 + epoch)
        if ema:
            row.update(eval_ema_loss=1.5, eval_ema_top1=40 + [0, 5, 2][epoch] / 3, eval_ema_top5=80.25)
        rows.append(dict(row, lr=0.1, seconds=12.5 + epoch, images_per_second=1000. - epoch))
    for epoch, name in ((1, BEST), (2, LAST)):
        states = []
        for seed in (epoch, epoch + 10):
            torch.manual_seed(seed)
            model = timm.create_model(arch, **model_args).to(memory_format=torch.channels_last)
            for name_, parameter in model.named_parameters():
                if 'gate' in name_:
                    torch.nn.init.normal_(parameter)
            states.append(model.state_dict())
        checkpoint = dict(
            arch=arch, model_args=model_args, state_dict=states[0], epoch=epoch, rows=rows[:epoch + 1],
            data_config=dict(input_size=[in_chans, size, size], mean=[0.5, 0.4, 0.3][:in_chans],
                             std=[0.2, 0.3, 0.25][:in_chans],
                             interpolation='bilinear', crop_pct=1.0, crop_mode='center'),
            label_names=labels, num_eval_images=321, metrics=rows[epoch])
        if ema:
            checkpoint['state_dict_ema'] = states[1]
        save_checkpoint(run / name, checkpoint)
    write_summary(run, rows)
    plot_curves(run, rows)
    defaults = dict(model=arch, dataset='', data_dir='/home/somebody/secret/images', output=str(run), epochs=3, lr=0.1,
                    seed=7, config='/home/somebody/recipe.yaml', pretrained=False)
    (run / 'args.yaml').write_text(yaml.safe_dump({**defaults, **args}))
    (run / 'environment.json').write_text(json.dumps(dict(
        iebn_zoo='0.1.0', timm='1', torch='2', python='3', cpu='A CPU', gpu=None, num_processes=1, commit='abc',
        command=['train.py', '--data-dir', '/home/somebody/secret/images', '--output=' + str(run), '--lr', '0.1',
                 '--config', '/home/somebody/recipe.yaml'])))
    return run
