"""``--preview``: the first batch as the network sees it, on a picture."""
import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
import torch
from PIL import Image

from iebn_zoo.plots.contact_sheet import draw_sheet
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.util.command_line.flags import Switch
from iebn_zoo.util.files import atomic_write
from iebn_zoo.util.seeded import seeded

if TYPE_CHECKING:
    from iebn_zoo.training.engine.run import Run

PICTURE = 'preview.png'
_DRAWN = 48
_SHOWN = 0.05  # the smallest share of a class in a mixed target whose name is shown


class Preview(Extension):
    """Draws the images of the first batch of a new run, augmented, mixed and normalized, with their targets.

    Mixup and CutMix mix at random for the picture; the run itself mixes differently.
    """

    name = 'preview'
    free_flags = ('preview',)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument_group('logs').add_argument(
            '--preview', action=Switch, help=f'draw the first {_DRAWN} training images as they are augmented, with '
            f'their classes: RUN/{PICTURE}')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['Preview']:
        return cls() if args.preview else None

    def run_start(self, run: 'Run') -> None:
        if run.rank != 0 or (not run.fresh and (Path(run.output) / PICTURE).exists()):
            return
        run.train_loader.set_position(run.position.epoch, [0])
        (images, targets), = list(run.train_loader)
        if run.trainer.mixup is not None:
            with seeded(run.args.seed):  # the run mixes with the same generators
                images, targets = run.trainer.mixup(images.clone(), targets)
        images, targets = images[:_DRAWN].cpu(), targets[:_DRAWN].cpu()
        names = run.class_names or [str(i) for i in range(run.model_args['num_classes'])]
        cells = [(_as_image(image, run.data_config), _words(target, names))
                 for image, target in zip(images, targets, strict=True)]
        with atomic_write(Path(run.output) / PICTURE) as file:
            draw_sheet(cells).save(file, 'PNG')


def _as_image(image: torch.Tensor, data_config: Dict[str, Any]) -> Image.Image:
    mean, std = (torch.tensor(data_config[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    pixels = ((image.float() * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels)


def _words(target: torch.Tensor, names: List[str]) -> List[str]:
    if target.dim() == 0:
        return [names[int(target)]]
    shares, classes = target.float().topk(min(2, len(names)))
    return [f'{100 * share:.0f} % {names[i]}' for share, i in zip(shares.tolist(), classes.tolist(), strict=True)
            if share > _SHOWN]
