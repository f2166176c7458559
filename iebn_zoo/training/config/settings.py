"""The flags of a command with their types, grouped as the parser groups them.

The fields have the names of the flags, which are timm's; ``--help`` says what each means. ``vars()`` of the parsed
flags and ``TrainSettings.flags()`` are equal, order included: that is what args.yaml and the checkpoints hold.
"""
import argparse
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Optional

from iebn_zoo.data.settings import AugmentationSettings, DataSettings


@dataclass
class RunSettings:
    """The flags of the group ``run``."""

    config: Optional[str]
    output: str
    overwrite: bool
    resume: Optional[str]
    allow_recipe_change: bool
    seed: int
    cuda_graph: bool
    deterministic: bool
    checkpoint_steps: Optional[int]
    stop_after: Optional[float]
    on_nan: List[str]
    checkpoint_hist: int
    eval_metric: str
    log_interval: int
    device_data: Optional[bool]
    train_split: Optional[str]
    holdout: Optional[float]


@dataclass
class ModelSettings:
    """The flags of the group ``model``."""

    model: str
    pretrained: bool
    initial_checkpoint: Optional[str]
    gp: Optional[str]
    drop: Optional[float]
    drop_path: Optional[float]
    model_kwargs: Dict[str, Any]
    grad_checkpointing: bool
    sync_bn: bool
    dist_bn: str


@dataclass
class OptimizerSettings:
    """The flags of the group ``optimizer and schedule``."""

    epochs: int
    grad_accum_steps: int
    opt: str
    opt_eps: Optional[float]
    opt_betas: Optional[List[float]]
    opt_args: Dict[str, Any]
    lr: float
    layer_decay: Optional[float]
    gate_lr_scale: Optional[float]
    momentum: float
    weight_decay: float
    weight_decay_all: bool
    clip_grad: Optional[float]
    sched: str
    sched_on_updates: bool
    warmup_epochs: int
    warmup_lr: float
    min_lr: float
    decay_epochs: Optional[float]
    decay_milestones: List[int]
    decay_rate: float
    cooldown_epochs: int
    model_ema: bool
    model_ema_decay: float
    model_ema_warmup: bool


@dataclass
class DeviceSettings:
    """The flags of the group ``device``."""

    device: str
    amp: bool
    amp_dtype: str
    channels_last: bool
    torchcompile: Optional[str]
    torchcompile_mode: Optional[str]


# a dataclass takes the fields of its last base first
@dataclass
class TrainSettings(
        DeviceSettings, AugmentationSettings, OptimizerSettings, DataSettings, ModelSettings, RunSettings):
    """The flags of ``train``.

    Attributes:
        callbacks: The flags that the callbacks add, by name.
    """

    callbacks: Dict[str, Any]

    @classmethod
    def from_flags(cls, flags: argparse.Namespace) -> 'TrainSettings':
        """The settings of flags that ``train_parser`` has parsed."""
        given = dict(vars(flags))
        own = {field.name: given.pop(field.name) for field in fields(cls) if field.name != 'callbacks'}
        return cls(**own, callbacks=given)

    def flags(self) -> Dict[str, Any]:
        """Every flag by its name, those of the callbacks last."""
        own = dict(vars(self))
        callbacks = own.pop('callbacks')
        return {**own, **callbacks}


@dataclass
class ValidateSettings(DeviceSettings, DataSettings):
    """The flags of ``validate``."""

    model: Optional[str]
    checkpoint: Optional[str]
    use_ema: bool
    held_out: bool
    train_split: Optional[str]
    confusion: Optional[str]
