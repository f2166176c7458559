"""Which values the flags of the commands may have."""
import argparse
import math
from dataclasses import dataclass
from typing import Any, Dict, Sequence, Tuple, Union

from iebn_zoo.util.errors import UsageError
from iebn_zoo.weights.settings import INTERPOLATIONS, MAX_NUMBER, MAX_SIZE


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``low`` to ``high``.

    Attributes:
        low: The lower end.
        high: The upper end.
        above: ``low`` itself is excluded.
        below: ``high`` itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # an int that no float holds
            return False
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.low == -math.inf:
            return 'a finite number'
        if self.high == math.inf:
            return f"{'above' if self.above else 'at least'} {self.low:g}"
        if not self.above and not self.below:
            return f'{self.low} to {self.high}'
        return f"{'above' if self.above else 'at least'} {self.low:g} and {'below' if self.below else 'at most'} " \
               f'{self.high:g}'


_COUNT, _NATURAL = Range(1), Range(0)
_NOT_NEGATIVE, _POSITIVE = Range(0.), Range(0., above=True)
_PROBABILITY, _BELOW_ONE = Range(0, 1), Range(0., 1., below=True)

LIMITS: Dict[str, Union[Range, Tuple[Any, ...]]] = {
    **dict.fromkeys(('epochs', 'batch_size', 'log_interval', 'num_classes', 'grad_accum_steps',
                     'checkpoint_steps', 'threads', 'calibration_images', 'held_out_images', 'tune_epochs'), _COUNT),
    **dict.fromkeys(('workers', 'checkpoint_hist', 'warmup_epochs', 'cooldown_epochs', 'crop_padding', 'aug_repeats',
                     'decay_milestones'), _NATURAL),
    **dict.fromkeys(('lr', 'weight_decay', 'min_lr', 'warmup_lr', 'clip_grad', 'decay_rate', 'opt_eps', 'color_jitter',
                     'mixup', 'cutmix'), _NOT_NEGATIVE),
    **dict.fromkeys(('decay_epochs', 'scale', 'ratio', 'stop_after', 'gate_lr_scale', 'tune_lr'), _POSITIVE),
    **dict.fromkeys(('hflip', 'vflip', 'reprob', 'mixup_prob', 'mixup_switch_prob', 'bce_target_thresh'), _PROBABILITY),
    **dict.fromkeys(('drop', 'drop_path', 'smoothing', 'momentum', 'opt_betas', 'model_ema_decay'), _BELOW_ONE),
    'layer_decay': Range(0., 1., above=True),
    'crop_pct': Range(0., 1., above=True),
    'holdout': Range(0., 1., above=True, below=True),
    'img_size': Range(1, MAX_SIZE),
    'mean': Range(-MAX_NUMBER, MAX_NUMBER, above=True, below=True),
    'std': Range(0., MAX_NUMBER, above=True, below=True),
    'seed': Range(0, 4_000_000_000),  # numpy takes 32 bits, and each process adds its number
    'in_chans': (1, 3),
    'interpolation': INTERPOLATIONS,
    'train_interpolation': (*INTERPOLATIONS, 'random'),
}
_ORDERED = ('scale', 'ratio')
_GROWING = ('decay_milestones',)  # timm looks them up by bisection, and counts one that is there twice as two decays


def check_limits(args: argparse.Namespace) -> None:
    """Check every flag of ``LIMITS`` that ``args`` has and that is set.

    Raises:
        UsageError: A value is outside its range.
    """
    for name, allowed in LIMITS.items():
        value = getattr(args, name, None)
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        given = f"--{name.replace('_', '-')} is {' '.join(map(str, values))}"
        if not all(v in allowed for v in values):
            expected = allowed if isinstance(allowed, Range) else ' or '.join(map(str, allowed))
            raise UsageError(f"{given}, expected {expected}{' each' if len(values) > 1 else ''}.")
        if name in _ORDERED and values[0] > values[1]:
            raise UsageError(f'{given}, expected the smaller one first.')
        if name in _GROWING and any(a >= b for a, b in zip(values, values[1:], strict=False)):
            raise UsageError(f'{given}, expected growing numbers.\nGive each once, the smallest first.')


def allowed_rollbacks(words: Sequence[str]) -> int:
    """Return how often a run may go back to its last good checkpoint; 0 for never.

    Args:
        words: The values of ``--on-nan``.

    Raises:
        UsageError: They are neither ``stop`` nor ``rollback N``.
    """
    if list(words) == ['stop']:
        return 0
    if len(words) == 2 and words[0] == 'rollback' and words[1].isdigit() and int(words[1]) > 0:
        return int(words[1])
    raise UsageError(f"--on-nan is {' '.join(words)!r}.\nExpected stop, or rollback N with N at least 1.")
