"""Ways by which timm's scripts reach our models: a flag that imports a module, and one line around the script.

The script here is a stand-in with what matters to us; timm's own ran once (scripts/benchmarks/timm_scripts.txt).
"""
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures('warm_python')

# as the README has it, with the script's name in the place of SCRIPT
LINE = "import iebn_zoo, runpy; runpy.run_path('SCRIPT', run_name='__main__')"

# as timm's scripts, it never names iebn_zoo
STAND_IN = '''
import argparse
import importlib
import sys

import timm
import torch

parser = argparse.ArgumentParser()
parser.add_argument('--device-modules', nargs='+', default=())
parser.add_argument('--model')


def main():
    args = parser.parse_args()
    for module in args.device_modules:
        importlib.import_module(module)
    model = timm.create_model(args.model, num_classes=3).eval()
    print(tuple(model(torch.zeros(1, 3, 32, 32)).shape), sys.argv[0])


if __name__ == '__main__':
    main()
'''


@pytest.fixture
def script(tmp_path):
    (tmp_path / 'validate.py').write_text(STAND_IN)
    return tmp_path


def run(folder, *args):
    return subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_script_alone_does_not_know_our_models(script):
    done = run(script, 'validate.py', '--model', 'iebn_resnet20_cifar')
    assert done.returncode == 1 and 'Unknown model (iebn_resnet20_cifar)' in done.stderr


def test_device_modules_registers_our_models(script):
    done = run(script, 'validate.py', '--device-modules', 'iebn_zoo', '--model', 'iebn_resnet20_cifar')
    assert (done.returncode, done.stdout) == (0, '(1, 3) validate.py\n'), done.stderr


def test_one_line_registers_our_models_for_a_script_without_the_flag(script):
    done = run(script, '-c', LINE.replace('SCRIPT', 'validate.py'), '--model', 'iebn_resnet20_cifar')
    assert (done.returncode, done.stdout) == (0, '(1, 3) validate.py\n'), done.stderr
