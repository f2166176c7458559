"""From flags to parts: what is measured, in the order of its importance, and how long each part may take."""
import argparse
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Sequence, Tuple

import torch

from iebn_zoo.studies.benchmark.check.oracle import COMPILED_SHAPES, SHAPES
from iebn_zoo.studies.benchmark.plan import model_subjects, modes_of, parse_shape, rounds_of
from iebn_zoo.studies.benchmark.settings import Setting, parse
from iebn_zoo.studies.benchmark.variants import LAYERS, MODELS, baseline
from iebn_zoo.util.errors import UsageError

EXECUTIONS = ('eager', 'graph', 'compile')
TIME_LIMIT_S = 230  # of the whole table: under four minutes
# ResNet-50 at batch 128, 224 px; resnet164_cifar at batch 128
SHAPES_OF_LAYERS = ('128,256,56,56', '128,64,32,32', '128,2048,7,7', '128,256,8,8', '128,64,112,112', '128,512,28,28',
                    '128,1024,14,14', '128,16,32,32', '128,128,16,16')
NETWORKS = ('resnet50', 'resnet164_cifar', 'resnet20_cifar')
SETTINGS = ('bfloat16+channels_last',)
ROUNDS = {'layer': 20, 'model': 8}
# the table compares IEBN with BatchNorm first; the other variants come later
FIRST = ('bn', 'iebn', 'bn_relu', 'iebn_relu')
DRY_RUN_FACTOR = 4  # on the limits of parts: the CPU of a dry run may be small and busy
DRY_SHAPES, DRY_NETWORKS, DRY_IMAGES, DRY_ROUNDS = ('2,16,5,5',), ('resnet20_cifar',), (2, 16), 2
# seconds that a part may take of TIME_LIMIT_S. Their sum is larger, because few parts need all of their time; the last
# parts get what is left
LIMITS = {'check': 75, 'layers': 45, 'models': 60, 'other layers': 30, 'compiled': 100, 'other models': 60,
          'other compiled': 100}


@dataclass(frozen=True)
class Case:
    """A layer or a network in one setting, whose variants are measured together.

    Args:
        kind: ``layer`` or ``model``.
        name: Of the network, or the layer's input shape.
        shape: (B, C, H, W) of the input.
        setting: As ``settings.parse`` reads it, without ``compile``.
        variants: Variants to report.
        references: Variants to measure in the same rounds for the ratios; they are reported elsewhere.
        rounds: Samples of each.
        seed: Of weights and input.
        reports_copies: Report the copies too.
    """

    kind: str
    name: str
    shape: Tuple[int, int, int, int]
    setting: str
    variants: Tuple[str, ...]
    references: Tuple[str, ...]
    rounds: int
    seed: int
    reports_copies: bool = False

    @property
    def all_variants(self) -> Tuple[str, ...]:
        """References and variants, references first."""
        return (*self.references, *self.variants)

    def record(self, mode: str, execution: str, variant: str, **values: Any) -> Dict[str, Any]:
        """Make a worker's record of one variant: where it belongs, and what was measured."""
        return dict(kind=self.kind, name=self.name, shape=list(self.shape), setting=self.setting, mode=mode,
                    execution=execution, variant=variant, seed=self.seed, is_reference=variant in self.references,
                    **values)


@dataclass(frozen=True)
class Job:
    """The work of one process.

    Args:
        task: ``check``, ``layers``, ``models`` (prepared by importing), ``compiled`` (prepared by compiling).
        cases: What to measure; none for a check.
        device: Such as ``cuda:0``.
        settings: Of a check.
        shapes: Of a check.
        modes: Of a check.
        executions: Of models.
        backend: Of torch.compile, or None.
        compile_mode: Of torch.compile, or None.
    """

    task: str
    device: str
    cases: Tuple[Case, ...] = ()
    settings: Tuple[str, ...] = ()
    shapes: Tuple[Tuple[int, ...], ...] = ()
    modes: Tuple[str, ...] = ()
    executions: Tuple[str, ...] = ()
    backend: str = ''
    compile_mode: str = ''

    def to_json(self) -> Dict[str, Any]:
        """Return plain values for ``from_json`` in another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Dict[str, Any]) -> 'Job':
        """Read what ``to_json`` made."""
        cases = tuple(Case(**{**c, 'shape': tuple(c['shape']), 'variants': tuple(c['variants']),
                              'references': tuple(c['references'])}) for c in values['cases'])
        tuples = {k: tuple(map(tuple, v)) if k == 'shapes' else tuple(v)
                  for k, v in values.items() if k in ('settings', 'shapes', 'modes', 'executions')}
        return cls(**{**values, **tuples, 'cases': cases})

    def setting(self, text: str) -> Setting:
        """Return a case's setting with this job's compiler."""
        setting = parse(text)
        if not self.backend:
            return setting
        return replace(setting, backend=self.backend, compile_mode=self.compile_mode or None)

    def expected(self) -> List[Dict[str, Any]]:
        """Return empty records of all that the job will report, without copies; a missing one was cut off."""
        records = []
        for case in self.cases:
            layer = case.kind == 'layer'
            modes = ('forward', 'backward', 'infer') if layer else ('train', 'infer')
            executions = ('compile',) if self.backend else ('graph',) if layer else self.executions
            records += [case.record(mode, execution, variant)
                        for execution in executions for mode in modes for variant in case.variants]
        return records


@dataclass(frozen=True)
class Part:
    """Jobs that are prepared at the same time, then measured one after the other.

    Args:
        name: One of ``LIMITS``.
        jobs: The most important first.
        limit: Seconds for all of them.
    """

    name: str
    jobs: Tuple[Job, ...]
    limit: float


def make_parts(args: argparse.Namespace, device: torch.device) -> List[Part]:
    """Make all parts, the check first.

    Raises:
        UsageError: A shape, network, setting or variant is wrong, or nothing is left to measure.
    """
    if not args.time_limit > 0:  # NaN too
        raise UsageError(f'--time-limit is {args.time_limit:g}, expected seconds above 0.')
    if args.rounds is not None:
        rounds_of(args)
    dry = args.dry_run
    texts = args.settings or SETTINGS
    for text in texts:
        if parse(text).backend:
            raise UsageError(f'setting {text!r} names compile.\nWith --gpu leave it out: --executions has it.')
    shapes = [parse_shape(text, train=True) for text in (
        args.shapes if args.shapes is not None else DRY_SHAPES if dry else SHAPES_OF_LAYERS)]
    images = argparse.Namespace(**{**vars(args), **(dict(
        batch_size=args.batch_size or DRY_IMAGES[0], img_size=args.img_size or DRY_IMAGES[1]) if dry else {})})
    networks = model_subjects(
        images, args.models if args.models is not None else DRY_NETWORKS if dry else NETWORKS, device)
    wanted = {*args.variants, *map(baseline, args.variants)}
    rounds = {kind: args.rounds or (DRY_ROUNDS if dry else n) for kind, n in ROUNDS.items()}

    def cases(kind: str, first: bool) -> List[Case]:
        known = LAYERS if kind == 'layer' else MODELS
        chosen = tuple(v for v in known if v in wanted and (v in FIRST) == first)
        if not chosen:
            return []
        subjects = [('x'.join(map(str, s)), s) for s in shapes] if kind == 'layer' else networks
        references = () if first else ('bn',)
        return [Case(kind, name, shape, text, chosen, references, rounds[kind], args.seed, kind == 'layer' and first)
                for name, shape in subjects for text in texts]

    parts = _parts(args, device, cases, tuple(texts))
    if len(parts) < 2:
        raise UsageError('nothing to measure: no shape, and no model in any of the variants.\n'
                         'Give --shapes or --models.')
    return parts


def _parts(args: argparse.Namespace, device: torch.device, cases: Any, texts: Tuple[str, ...]) -> List[Part]:
    def job(task: str, **values: Any) -> Job:
        return Job(task, str(device), **values)

    backend = args.torchcompile or ('aot_eager' if args.dry_run else 'inductor')
    compiler = dict(backend=backend, compile_mode=(args.compile_mode or 'default') if backend == 'inductor' else '')
    modes = modes_of(argparse.Namespace(bench='both'))
    eager = tuple(e for e in args.executions if e != 'compile')
    shapes = SHAPES[:1] if args.dry_run else SHAPES
    jobs: Dict[str, List[Job]] = {name: [] for name in LIMITS}
    # one job per shape, because on a GPU most of the time is compilation of kernels
    jobs['check'] = [job('check', settings=texts, shapes=(shape,), modes=modes) for shape in shapes]
    for prefix, first in (('', True), ('other ', False)):
        layers, networks = cases('layer', first), cases('model', first)
        if layers and 'graph' in eager:
            jobs[f'{prefix}layers'] = [job('layers', cases=tuple(layers))]
        if networks and eager:
            jobs[f'{prefix}models'] = [job('models', cases=(case,), executions=eager) for case in networks]
        if 'compile' in args.executions:
            jobs[f'{prefix}compiled'] = _compiled(job, networks, layers[:2] if first else [], compiler)
    if jobs['compiled']:
        jobs['compiled'].insert(0, job('check', settings=texts, shapes=COMPILED_SHAPES, modes=modes, **compiler))
    scale = args.time_limit / TIME_LIMIT_S * (DRY_RUN_FACTOR if args.dry_run else 1)
    return [Part(name, tuple(jobs[name]), scale * limit) for name, limit in LIMITS.items() if jobs[name]]


def _compiled(job: Any, networks: Sequence[Case], layers: Sequence[Case], compiler: Dict[str, str]) -> List[Job]:
    """Make a job per network and variant, so that they compile at once."""
    found = [job('compiled', cases=(replace(case, variants=(variant,), references=()),), **compiler)
             for case in networks for variant in case.variants]
    # we capture the kernels of a layer, so that the compiler must not capture graphs itself
    own = {**compiler, 'compile_mode': {'max-autotune': 'max-autotune-no-cudagraphs', '': ''}.get(
        compiler['compile_mode'], 'default')}
    return found + [job('layers', cases=(replace(case, reports_copies=False),), **own) for case in layers]
