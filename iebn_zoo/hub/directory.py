"""An export directory comes to be: whole or not at all, and only after a fresh process has loaded it back."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import SafetensorError

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.hub.client import check_repo_id
from iebn_zoo.hub.golden import GOLDEN, golden_input, read_golden
from iebn_zoo.hub.proof import FILES

__all__ = ['check_ids', 'check_output', 'golden_input', 'new_directory', 'reload_fresh']

_ROOT = Path(__file__).resolve().parents[2]
# on the same machine the logits are normally equal; another thread count may order a sum differently
_TOLERANCE = 1e-5
_CHECK = ('import json, os, sys\n'
          'sys.path.append(sys.argv.pop())\n'  # for an iebn_zoo that is not installed; last, so that it hides nothing
          'import timm\n'
          'with open(os.path.join(sys.argv[1], "config.json"), encoding="utf-8") as file:\n'
          '    architecture = json.load(file)["architecture"]\n'
          'if timm.is_model(architecture):\n'  # before iebn_zoo is imported: a network of timm loads without it
          '    timm.create_model("local-dir:" + sys.argv[1], pretrained=True)\n'
          'import iebn_zoo\n'
          'from iebn_zoo.cli import run\n'
          'from iebn_zoo.hub.check import check_directory\n'
          'sys.exit(run(lambda argv: print(check_directory(argv[0]).difference) or 0, sys.argv[1:]))')


def check_ids(
        license: Optional[str],
        repo_id: Optional[str],
        dataset_id: Optional[str],
        base_model: Optional[str] = None,
) -> None:
    """Raise UsageError for an id that the Hub does not allow; None is left out."""
    if license is not None and not re.fullmatch(r'[a-z0-9][a-z0-9.+-]*', license):
        raise UsageError(f"--license is {license!r}.\nExpected the Hub's id of a license, such as apache-2.0 or mit.")
    if repo_id is not None:
        check_repo_id(repo_id)
    for flag, value, example in (('--dataset-id', dataset_id, 'a dataset on the Hub, such as uoft-cs/cifar100'),
                                 ('--base-model', base_model, 'a model on the Hub, such as timm/resnet50.a1_in1k')):
        try:
            validate_repo_id(value or 'none')
        except HFValidationError as e:
            raise UsageError(f'{flag} is {value!r}.\nExpected {example}.') from e


def check_output(output: Path, overwrite: bool) -> None:
    """Raise UsageError if ``output`` exists and is not an earlier export, and nothing but that, to be replaced."""
    if not output.exists():
        return
    if not (overwrite and (output / GOLDEN).is_file()):
        raise UsageError(
            f'{output} exists.\nGive another --output, or replace an earlier export with --overwrite.')
    foreign = sorted(set(os.listdir(output)) - set(FILES))
    if foreign:  # a clone's .git, somebody's notes
        raise UsageError(f'{output} holds {foreign[0]}, which no export made.\nMove it away, or give another --output.')


@contextmanager
def new_directory(output: Path) -> Iterator[Path]:
    """Within: a directory to fill, beside ``output``. On a clean exit it becomes ``output``; otherwise it is gone.

    Raises:
        IEBNZooError: It cannot be written; what stood at ``output`` is unchanged.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f'.{output.name}.') as temp:
            made = Path(temp).resolve() / 'made'
            made.mkdir()
            yield made
            _match_modes(made)
            _swap(made, output, Path(temp) / 'old')
    except (OSError, SafetensorError) as e:
        reason = getattr(e, 'strerror', None) or e
        raise IEBNZooError(f'cannot write {output}: {reason}.\nGive --output a writable place.') from e


def reload_fresh(made: Path) -> float:
    """Check and load ``made`` in a fresh process; a network of timm's own also without this package.

    Returns:
        Largest difference from the golden logits.

    Raises:
        IEBNZooError: It does not load, or computes something else.
    """
    done = subprocess.run(
        [sys.executable, '-c', _CHECK, str(made), str(_ROOT)], cwd=made.parent, capture_output=True, text=True,
        env=dict(os.environ, HF_HUB_OFFLINE='1'))
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith('error: ')), lines[-1] if lines else 'no message')
        raise IEBNZooError(
            f"the exported directory does not load back: {reason.removeprefix('error: ').replace(str(made), 'it')}\n"
            f'Nothing was written.')
    difference, scale = float(done.stdout.split()[-1]), read_golden(made / GOLDEN).logits.abs().max().item()
    if difference > _TOLERANCE * scale:
        raise IEBNZooError(
            f'the exported directory loads back with logits that differ by {difference:.3g} of {scale:.3g}.\n'
            f'Expected at most {_TOLERANCE:g} of that. Nothing was written.')
    return difference


def _match_modes(made: Path) -> None:
    # safetensors writes files that only their owner can read
    for name in (GOLDEN, 'model.safetensors'):
        shutil.copymode(made / 'README.md', made / name)


def _swap(made: Path, output: Path, old: Path) -> None:
    # a directory cannot be exchanged in one step: between the two renames there is none
    try:
        if output.exists():
            os.rename(output, old)
        os.rename(made, output)
    except BaseException:
        if old.exists() and not output.exists():
            os.rename(old, output)
        raise
