"""The place of the package, how it is installed, and the shipped files: recipes, templates of cards, checkpoints."""
from pathlib import Path
from typing import List, Optional

from iebn_zoo.util.errors import IEBNZooError

# How the package is installed today: the one place that says so, for cards, messages and documents. It is on no package
# index yet. On the day that it is published, change these two.
_REQUIREMENT = '.'  # what pip installs: the checkout that is the current directory. Published: 'iebn-zoo'
_WHERE = 'in a checkout of iebn-zoo, which is on no package index yet'  # published: ''
PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # of the checkout, or the directory that an installation puts on sys.path
# a wheel carries these under _data; a checkout (also `pip install -e .`) has them at the top level
_HOMES = {
    'hub_cards': (PACKAGE / '_data' / 'hub_cards', ROOT / 'hub_cards'),
    'recipes': (PACKAGE / '_data' / 'recipes', ROOT / 'scripts' / 'recipes'),
}


def resource(kind: str, name: str) -> Path:
    """Find a shipped file.

    Args:
        kind: ``'hub_cards'`` or ``'recipes'``.
        name: File name inside that folder.

    Raises:
        IEBNZooError: The installation lacks the file.
    """
    for home in _HOMES[kind]:
        if (home / name).is_file():
            return home / name
    raise IEBNZooError(f'{kind}/{name} is missing from this installation of iebn-zoo.\nReinstall the package.')


def resource_directories(kind: str, pattern: str) -> List[Path]:
    """Find shipped directories, in the order of their names.

    Args:
        kind: ``'hub_cards'`` or ``'recipes'``.
        pattern: Their names, with wildcards.
    """
    home = next((home for home in _HOMES[kind] if home.is_dir()), None)
    return sorted(path for path in home.glob(pattern) if path.is_dir()) if home else []


def recipe_names() -> List[str]:
    """Names of the shipped recipes, without ``.yaml``."""
    return sorted({path.stem for home in _HOMES['recipes'] for path in home.glob('*.yaml')})


def install_command(extra: Optional[str] = None) -> str:
    """Return the command line that installs the package, such as ``pip install '.[onnx]'``.

    Args:
        extra: Name of an extra of pyproject.toml, several names with commas between them, or None.
    """
    return f"pip install '{_REQUIREMENT}[{extra}]'" if extra else f'pip install {_REQUIREMENT}'


def install_line(extra: Optional[str] = None) -> str:
    """Return ``install_command`` with a comment that says where to run it, as a line for a shell."""
    return f'{install_command(extra)}  # {_WHERE}' if _WHERE else install_command(extra)
