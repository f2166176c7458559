"""From flags to cases: a case is a layer or a model in one setting and mode, whose variants are measured together."""
import argparse
import difflib
from dataclasses import dataclass
from typing import Callable, Dict, List, Sequence, Tuple

import torch

from iebn_zoo.studies.benchmark import settings
from iebn_zoo.studies.benchmark.measure import Step
from iebn_zoo.studies.benchmark.settings import Setting
from iebn_zoo.studies.benchmark.steps import LayerStep, ModelStep, Shape
from iebn_zoo.studies.benchmark.variants import LAYERS, MODELS, base_names, is_cifar, with_baselines
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.util.errors import UsageError

ROUNDS, QUICK_ROUNDS = 10, 5
DEFAULT_MODELS = ('resnet50', 'resnet20_cifar', 'resnet164_cifar', 'wrn28_10_cifar', 'resnext50_32x4d')
QUICK_MODELS = ('resnet50', 'resnet20_cifar')
DEFAULT_SETTINGS = ('float32', 'bfloat16', 'channels_last')
# norms of ResNet-50 at 160 px, batch 8, and of CIFAR networks at batch 128
DEFAULT_SHAPES = ('8,64,80,80', '8,256,40,40', '8,512,20,20', '8,2048,5,5', '128,16,32,32', '128,64,32,32',
                  '128,256,8,8')
# the same norms of ResNet-50 at a size that fills a GPU
GPU_SHAPES = ('128,64,112,112', '128,256,56,56', '128,512,28,28', '128,2048,7,7')
CPU_BATCH = {'wrn28_10_cifar': 16}  # a step of 128 images takes a minute


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        kind: ``layer`` or ``model``.
        name: Of the model, or the layer's input shape.
        shape: (B, C, H, W) of the input.
        setting: Dtype, layout, compiler.
        mode: ``train`` or ``infer``.
        variants: Variants to compare.
        seed: Of weights and input, the same for every variant.
    """

    kind: str
    name: str
    shape: Shape
    setting: Setting
    mode: str
    variants: Tuple[str, ...]
    seed: int

    def builders(self, device: torch.device) -> Dict[str, Callable[[], Step]]:
        """Return what makes each variant's step."""
        def build(variant: str) -> Step:
            torch.manual_seed(self.seed)
            if self.kind == 'layer':
                return LayerStep(variant, self.shape, self.setting, self.mode, device)
            return ModelStep(variant, self.name, self.shape, self.setting, self.mode, device)

        return {variant: lambda variant=variant: build(variant) for variant in self.variants}


def rounds_of(args: argparse.Namespace) -> int:
    """Return the samples per variant.

    Raises:
        UsageError: There are fewer than 2, which have no spread.
    """
    rounds = args.rounds if args.rounds is not None else QUICK_ROUNDS if args.quick else ROUNDS
    if rounds < 2:
        raise UsageError(f'--rounds is {rounds}, expected at least 2: one sample has no spread.')
    return rounds


def modes_of(args: argparse.Namespace) -> Tuple[str, ...]:
    """Return ``train``, ``infer`` or both."""
    return ('train', 'infer') if args.bench == 'both' else (args.bench,)


def settings_of(args: argparse.Namespace) -> List[Setting]:
    """Return the settings, each once.

    Raises:
        UsageError: A setting is unknown, or the flags name settings in two ways.
    """
    backend = args.torchcompile or 'inductor'
    mode = args.compile_mode
    if mode is not None and backend != 'inductor':
        raise UsageError(f'--compile-mode {mode} belongs to inductor, and --torchcompile names {backend!r}.\n'
                         f'Leave one of them out.')
    if args.amp or args.channels_last or args.torchcompile:
        if args.settings:
            raise UsageError('--settings was given together with --amp, --channels-last or --torchcompile.\n'
                             'Name each setting in --settings, such as bfloat16+channels_last+compile.')
        return [Setting(args.amp_dtype if args.amp else 'float32', args.channels_last, args.torchcompile,
                        mode if args.torchcompile else None)]
    return list(dict.fromkeys(settings.parse(text, backend, mode) for text in args.settings or DEFAULT_SETTINGS))


def make_cases(args: argparse.Namespace, device: torch.device) -> List[Case]:
    """Make all cases, layers first.

    Raises:
        UsageError: A shape, model or setting is wrong, or nothing is left to measure.
    """
    shapes, models = args.shapes, args.models
    if shapes is None:
        shapes = [*DEFAULT_SHAPES, *(GPU_SHAPES if device.type == 'cuda' else ())]
    if models is None:
        models = QUICK_MODELS if args.quick else DEFAULT_MODELS
    of_layers = tuple(with_baselines([v for v in args.variants if v in LAYERS]))
    of_models = tuple(with_baselines([v for v in args.variants if v in MODELS]))
    modes = modes_of(args)
    subjects = [('layer', 'x'.join(map(str, shape)), shape, of_layers)
                for shape in dict.fromkeys(parse_shape(text, 'train' in modes) for text in shapes)]
    subjects += [('model', name, shape, of_models) for name, shape in model_subjects(args, models, device)]
    cases = [Case(kind, name, shape, setting, mode, compared, args.seed)
             for kind, name, shape, compared in subjects if compared
             for setting in settings_of(args) for mode in modes]
    if not cases:
        raise UsageError('nothing to measure: no shape, and no model in any of the variants.\n'
                         'Give --shapes or --models.')
    return cases


def model_subjects(args: argparse.Namespace, models: Sequence[str], device: torch.device) -> List[Tuple[str, Shape]]:
    """Return each of ``models`` once, with the shape of its images.

    Raises:
        UsageError: A name is no base name.
    """
    return [(name, _model_shape(args, name, device)) for name in dict.fromkeys(models)]


def parse_shape(text: str, train: bool) -> Shape:
    """Read ``8,64,80,80`` or, as the results name it, ``8x64x80x80``.

    Raises:
        UsageError: The text is not four positive sizes, or ``train`` and the shape has one value per channel.
    """
    sizes = text.replace('x', ',').split(',')
    if len(sizes) != 4 or not all(s.isdecimal() and int(s) > 0 for s in sizes):
        raise UsageError(f'shape {text!r} is not B,C,H,W.\nExpected four positive sizes, such as 8,64,80,80.')
    batch, channels, height, width = map(int, sizes)
    if train and batch * height * width == 1:
        raise UsageError(f'shape {text} has one value per channel, and so no batch statistics.\n'
                         f'Give a larger one, or --bench infer.')
    return batch, channels, height, width


def _model_shape(args: argparse.Namespace, name: str, device: torch.device) -> Shape:
    names = base_names()
    if name not in names:
        near = difflib.get_close_matches(name.removeprefix('iebn_').removeprefix('bn_'), names, n=3, cutoff=0.5)
        raise UsageError(f'unknown model {name!r}.\nExpected a base name, NAME of iebn_NAME'
                         + (f', such as {" or ".join(near)}.' if near else ", such as resnet50."))
    check_limits(args)
    on_gpu, cifar = device.type == 'cuda', is_cifar(name)
    batch = args.batch_size or (128 if on_gpu else CPU_BATCH.get(name, 128 if cifar else 8))
    size = args.img_size or (32 if cifar else 224 if on_gpu else 160)
    return batch, 3, size, size
