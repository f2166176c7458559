"""Where the norms of a network are, and how one of them is replaced."""
from typing import Callable, Dict, List, Tuple

from torch import nn

from iebn_zoo._compat import children_of

# from the root to a module: each owner and the name of its child on the way
Path = Tuple[Tuple[nn.Module, str], ...]


def find_modules(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> Dict[nn.Module, List[Path]]:
    """Find every module that is ``wanted``, in order, with each path to it, but none inside another.

    A module that is registered twice, itself or in a container that is, has two paths. The root's own path is empty.
    """
    found: Dict[nn.Module, List[Path]] = {}

    def visit(module: nn.Module, path: Path) -> None:
        if wanted(module):
            found.setdefault(module, []).append(path)
        elif all(owner is not module for owner, _ in path):
            for name, child in children_of(module).items():
                if child is not None:
                    visit(child, (*path, (module, name)))

    visit(model, ())
    return found


def dotted(path: Path) -> str:
    """Return the name that ``named_modules`` gives; '' for the root."""
    return '.'.join(name for _, name in path)


def replace_modules(
        model: nn.Module, paths: Dict[nn.Module, List[Path]], new: Dict[nn.Module, nn.Module],
) -> nn.Module:
    """Put ``new[old]`` wherever ``old`` is registered. Returns ``model``, or what replaces it if it is itself old."""
    for old, replacement in new.items():
        for path in paths[old]:
            if path:
                owner, name = path[-1]
                owner.add_module(name, replacement)
    return new.get(model, model)
