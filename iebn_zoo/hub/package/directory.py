"""Writes an export directory: whole or not at all, and only after a fresh process has loaded it back."""
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from safetensors import SafetensorError

from iebn_zoo.hub.formats.table import FORMAT_FILES
from iebn_zoo.hub.package.golden import GOLDEN, golden_input, read_golden
from iebn_zoo.hub.package.proof import FILES
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.resources import ROOT
from iebn_zoo.util.results import cannot_write, check_new

__all__ = ['check_output', 'golden_input', 'new_directory', 'reload_fresh', 'swap']

# on the same machine the logits are normally equal; another thread count may order a sum differently
_TOLERANCE = 1e-5
_CHECK = ('import json, os, sys\n'
          'sys.path.append(sys.argv.pop())\n'  # for an iebn_zoo that is not installed; last, to hide no package
          'import timm\n'
          'with open(os.path.join(sys.argv[1], "config.json"), encoding="utf-8") as file:\n'
          '    architecture = json.load(file)["architecture"]\n'
          'if timm.is_model(architecture):\n'  # a network of timm must load before iebn_zoo is imported
          '    timm.create_model("local-dir:" + sys.argv[1], pretrained=True)\n'
          'import iebn_zoo\n'
          'from iebn_zoo.cli import run\n'
          'from iebn_zoo.hub.package.check import check_directory\n'
          'sys.exit(run(lambda argv: print(check_directory(argv[0]).difference) or 0, sys.argv[1:]))')


def check_output(output: Path, overwrite: bool) -> None:
    """Check that an export can be written to ``output``.

    Raises:
        UsageError: It exists, unless it is an earlier export without other files and may be replaced; or it would lie
            in a file.
        IEBNZooError: It cannot be made.
    """
    check_new('--output', output)
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise UsageError(
            f'{output} exists.\nGive another --output, or replace an earlier export with --overwrite.')
    if not (output / GOLDEN).is_file():
        raise UsageError(f'{output} is no export of this package (it holds no {GOLDEN}), and --overwrite replaces '
                         f'nothing else.\nMove it away, or give another --output.')
    foreign = sorted(set(os.listdir(output)) - set(FILES))
    if foreign:  # such as a clone's .git or somebody's notes
        raise UsageError(f'{output} holds {foreign[0]}, which no export made.\nMove it away, or give another --output.')


@contextmanager
def new_directory(output: Path) -> Iterator[Path]:
    """Give a directory to fill. After a block without error it becomes ``output``; after an error it is removed.

    Raises:
        IEBNZooError: It cannot be written. What stood at ``output`` is unchanged.
    """
    try:
        if output.is_symlink():  # what it leads to is replaced, and not the link
            output = output.resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f'.{output.name}.') as temp:
            made = Path(temp).resolve() / 'made'
            made.mkdir()
            yield made
            _match_modes(made)
            swap(made, output, Path(temp) / 'old')
    except SafetensorError as e:
        cannot_write('--output', output, OSError(str(e)))
    except OSError as e:
        if e.filename is not None and output.parent.resolve() not in Path(os.fsdecode(e.filename)).resolve().parents:
            raise  # it reads another file
        cannot_write('--output', output, e)


def reload_fresh(made: Path) -> float:
    """Check and load ``made`` in a fresh process; load a network of timm's own there without this package, too.

    Returns:
        Largest difference from the golden logits.

    Raises:
        IEBNZooError: It does not load, or computes something else.
    """
    done = subprocess.run(
        [sys.executable, '-c', _CHECK, str(made), str(ROOT)], cwd=made.parent, capture_output=True, text=True,
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
    # safetensors and some of the writers of other formats make files that only their owner can read
    for name in (GOLDEN, 'model.safetensors', *FORMAT_FILES):
        if (made / name).exists():
            shutil.copymode(made / 'README.md', made / name)


def swap(made: Path, output: Path, old: Path) -> None:
    """Rename the directory ``made`` to ``output``; what stood there becomes ``old``, or stays after an error."""
    # nothing exchanges two directories in one step: between the renames ``output`` is missing for a moment
    try:
        if output.exists():
            os.rename(output, old)
        os.rename(made, output)
    except BaseException:
        if old.exists() and not output.exists():
            os.rename(old, output)
        raise
