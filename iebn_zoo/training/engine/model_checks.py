"""Checks that the model can do what the flags ask for, before anything is trained."""
import copy
from typing import Any, Dict, cast

import torch
from torch import nn

from iebn_zoo.training.config.settings import DeviceSettings, TrainSettings
from iebn_zoo.util.errors import UsageError, first_line
from iebn_zoo.util.processes import Processes


def checkpoint_gradients(model: nn.Module) -> None:
    """Call timm's ``set_grad_checkpointing``.

    Raises:
        UsageError: The model does not support it.
    """
    try:
        cast(Any, model).set_grad_checkpointing()  # of timm's networks
    except (AssertionError, AttributeError, NotImplementedError) as e:
        raise UsageError(f'--grad-checkpointing: {type(model).__name__} does not support it.\nLeave it out.') from e


def check_sync_bn(args: TrainSettings, processes: Processes) -> None:
    """Check that torch's SyncBatchNorm can run where ``--sync-bn`` asks for it.

    Raises:
        UsageError: There are several processes, and they do not compute on CUDA GPUs.
    """
    if args.sync_bn and processes.many and processes.device.type != 'cuda':
        raise UsageError(f'--sync-bn: {processes.world} processes compute on {processes.device}, and SyncBatchNorm '
                         f'needs CUDA GPUs.\nLeave out --sync-bn, and give each process a larger --batch-size.')


@torch.no_grad()
def check_images(model: nn.Module, data_config: Dict[str, Any]) -> None:
    """Run the model in eval mode on an image of the size of the data; its mode stays as it was.

    Raises:
        UsageError: The model does not take images of this size.
    """
    training, size = model.training, data_config['input_size']
    model.eval()
    try:
        model(torch.zeros(1, *size, device=next(model.parameters()).device))
    except (AssertionError, RuntimeError, ValueError) as e:
        raise UsageError(f"the model does not take images of {' x '.join(map(str, size))}: {first_line(e)}\n"
                         f'Give another --img-size or --input-size; a transformer is made for one by --model-kwargs '
                         f'img_size=N or "img_size=(H,W)".') from e
    finally:
        model.train(training)


def check_batch_of_one(model: nn.Module, data_config: Dict[str, Any]) -> None:
    """Run a copy of the model in training mode on a batch of one image.

    Raises:
        UsageError: A norm gets a single value per channel, which has no variance.
    """
    try:
        copy.deepcopy(model).train()(torch.zeros(1, *data_config['input_size']))
    except ValueError as e:
        raise UsageError(f'a batch of 1 image cannot be trained on: {first_line(e)}\n'
                         f'Give a larger --batch-size, with --grad-accum-steps the same update, or a larger '
                         f'--img-size.') from e


def compiled(forward: nn.Module, args: DeviceSettings) -> nn.Module:
    """Compile ``forward`` with torch.compile where ``--torchcompile`` or ``--torchcompile-mode`` ask for it.

    Raises:
        UsageError: The backend is unknown, or has no modes.
    """
    mode = args.torchcompile_mode
    if not args.torchcompile and mode is None:
        return forward
    backend = args.torchcompile or 'inductor'
    known = torch.compiler.list_backends()
    if backend not in known and backend not in torch.compiler.list_backends(exclude_tags=None):
        raise UsageError(f'--torchcompile is {backend!r}.\nExpected a backend of torch.compile: {", ".join(known)}.')
    if mode is not None and backend != 'inductor':
        raise UsageError(f'--torchcompile-mode {mode} and --torchcompile {backend}: only inductor has modes.\n'
                         f'Leave out one of them.')
    made = torch.compile(forward, backend=backend, mode=mode)
    assert isinstance(made, nn.Module)  # torch declares a function of one
    return made
