"""The flags, with timm's names where timm has one."""
import argparse

from iebn_zoo.studies.benchmark.gpu.parts import EXECUTIONS, TIME_LIMIT_S
from iebn_zoo.studies.benchmark.gpu.parts import ROUNDS as ROUNDS_OF_KIND
from iebn_zoo.studies.benchmark.plan import QUICK_MODELS, QUICK_ROUNDS, ROUNDS
from iebn_zoo.studies.benchmark.settings import COMPILE_MODES
from iebn_zoo.studies.benchmark.variants import LAYERS, VARIANTS
from iebn_zoo.util.command_line.flags import add_device, expanded
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter

EPILOG = '''variants:
  bn         nn.BatchNorm2d; a model: timm's own
  naive      IEBN as its formula is written, gradients by autograd
  se, eca    BatchNorm and timm's SEModule or EcaModule; a model: on each residual branch
  iebn       IEBatchNorm2d; a model: iebn_NAME
  bn_relu    layers only: nn.BatchNorm2d and an in-place ReLU; what iebn_relu is compared with
  iebn_relu  layers only: IEBatchNormAct2d, norm and ReLU in one
  folded     models only: what fold_gates makes of iebn_NAME

examples:
  %(prog)s --quick
  %(prog)s --models resnet50 -b 8 --img-size 160 --shapes --settings float32 bfloat16+channels_last
  %(prog)s --gpu --output gpu.csv
  %(prog)s --gpu --models resnet50 --shapes --variants iebn --compile-mode max-autotune --time-limit 900
  %(prog)s --models --shapes 8,64,80,80 128,64,32,32 --bench train --torchcompile
'''


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        formatter_class=RawHelpFormatter, epilog=EPILOG,
        description='Measure time and peak memory of IEBN against BatchNorm, layer by layer and model by model.\n'
        'First our operator is compared with its formula in float64; if it is wrong, nothing is timed.')
    g = parser.add_argument_group('what to measure')
    g.add_argument('--models', nargs='*', metavar='NAME', help='base names: NAME of iebn_NAME, such as resnet50 or '
                   'resnet164_cifar; no name: no models (default: five of both families)')
    g.add_argument('--shapes', nargs='*', metavar='B,C,H,W', help='inputs of the layers; no shape: no layers (default: '
                   'seven of ResNet-50 at 160 px and of ResNets at 32 px; on a GPU four more at batch 128, 224 px)')
    g.add_argument('--variants', nargs='+', choices=VARIANTS, metavar='NAME', default=list(LAYERS),
                   help='variants as below (default: all but folded); their baselines are added')
    g.add_argument('--bench', '--mode', choices=('both', 'train', 'infer'), default='both',
                   help='train: forward and backward, for a model the SGD step too; infer: forward')
    g.add_argument('-b', '--batch-size', type=int, metavar='N', help='images per batch of the models (default: '
                   '128 on a GPU; on the CPU 8 for ImageNet names, 128 for CIFAR names, 16 for wrn28_10_cifar)')
    g.add_argument('--img-size', type=int, metavar='N', help='square image size of the models (default: '
                   '32 for CIFAR names, otherwise 224 on a GPU and 160 on the CPU)')
    g.add_argument('--quick', action='store_true', help=f'{QUICK_ROUNDS} rounds and the models '
                   f"{' and '.join(QUICK_MODELS)}, where --rounds and --models do not say otherwise")
    g = parser.add_argument_group('settings')
    g.add_argument('--settings', nargs='+', metavar='SETTING', help='one or more, each words joined by +: a dtype '
                   '(float32, bfloat16, float16: the last two by autocast), channels_last, compile '
                   '(default: float32 bfloat16 channels_last)')
    g.add_argument('--amp', action='store_true', help='one setting instead: autocast to --amp-dtype')
    g.add_argument('--amp-dtype', default='bfloat16', choices=('bfloat16', 'float16'), help='dtype of --amp')
    g.add_argument('--channels-last', action='store_true', help='one setting instead: channels_last memory format')
    g.add_argument('--compile-mode', '--torchcompile-mode', choices=COMPILE_MODES, metavar='MODE',
                   help=f"mode of torch.compile with inductor: {', '.join(COMPILE_MODES)}")
    g.add_argument('--torchcompile', nargs='?', const='inductor', metavar='BACKEND',
                   help='one setting instead: torch.compile; --amp and --channels-last join in it')
    g = parser.add_argument_group(
        'a table for a GPU',
        'GPU time of kernels (replays of a CUDA graph with a cold L2, beside a copy of the same bytes), time of the\n'
        'host alone, and whole steps of networks. The most important rows come first; each part has a time limit.\n'
        f"Its defaults: three networks, nine shapes, bfloat16+channels_last, {ROUNDS_OF_KIND['layer']} rounds of "
        f"layers and {ROUNDS_OF_KIND['model']} of networks.")
    g.add_argument('--gpu', action='store_true', help='measure this table')
    g.add_argument('--executions', nargs='+', choices=EXECUTIONS, default=list(EXECUTIONS), metavar='HOW',
                   help='how whole steps run: eager, graph (forward and backward in a CUDA graph; kernel times '
                   'of layers too), compile (default: all)')
    g.add_argument('--time-limit', type=float, default=TIME_LIMIT_S, metavar='S',
                   help='seconds of the whole table; the parts share it')
    g.add_argument('--dry-run', action='store_true', help='run the same code on the CPU with tiny sizes and plain '
                   'calls in the place of graphs; its rows say so')
    g = parser.add_argument_group('run')
    g.add_argument('--rounds', type=int, metavar='N',
                   help=f'samples of each variant, at least 2 (default: {ROUNDS})')
    add_device(g)
    g.add_argument('--threads', type=int, metavar='N', help="CPU threads of an op (default: torch's)")
    g.add_argument('--keep-memory', action='store_true', help='on the CPU, keep the memory that a step frees for the '
                   'next one, as train does (default: the C library decides, as in a loop of your own)')
    g.add_argument('--seed', type=int, default=42, metavar='N', help='seed of inputs and weights')
    g.add_argument('--output', type=expanded, default='benchmark.csv', metavar='FILE.csv',
                   help='results; a chart FILE.png lies beside it')
    g.add_argument('--overwrite', action='store_true', help='replace FILE.csv')
    return parser
