"""How this package is installed today: the one place that says so, for cards, messages and documents.

It is on no package index yet. On the day that it is published, change ``_REQUIREMENT`` and ``_WHERE`` here.
"""
from typing import Optional

_REQUIREMENT = '.'  # what pip installs: the checkout that is the current directory. Published: 'iebn-zoo'
_WHERE = 'in a checkout of iebn-zoo, which is on no package index yet'  # published: ''


def install_command(extra: Optional[str] = None) -> str:
    """Return the command line that installs the package, such as ``pip install '.[onnx]'``.

    Args:
        extra: Name of an extra of pyproject.toml, several names with commas between them, or None.
    """
    return f"pip install '{_REQUIREMENT}[{extra}]'" if extra else f'pip install {_REQUIREMENT}'


def install_line(extra: Optional[str] = None) -> str:
    """Return ``install_command`` with a comment that says where to run it, as a line for a shell."""
    return f'{install_command(extra)}  # {_WHERE}' if _WHERE else install_command(extra)
