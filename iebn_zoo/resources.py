"""Finds the files that live at the repository's top level and travel inside the wheel."""
from pathlib import Path

from iebn_zoo.errors import IEBNZooError

_PACKAGE = Path(__file__).resolve().parent
# a wheel carries these under _data; a checkout (also `pip install -e .`) has them at the top level
_HOMES = {
    'hub_cards': (_PACKAGE / '_data' / 'hub_cards', _PACKAGE.parent / 'hub_cards'),
    'recipes': (_PACKAGE / '_data' / 'recipes', _PACKAGE.parent / 'scripts' / 'recipes'),
}


def resource(kind: str, name: str) -> Path:
    """Path of a shipped file.

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
