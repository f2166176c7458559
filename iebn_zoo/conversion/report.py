"""What a conversion did to each norm, and why it left the others."""
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from torch import nn

from iebn_zoo.conversion.walk import Path, dotted


@dataclass(frozen=True)
class LayerReport:
    """One norm of the network.

    Attributes:
        names: Its dotted names, more than one where it is shared; '' is the root.
        before: Class name.
        after: Class name, or None where it was left as it is.
        note: Why it was left, or what is particular about the new layer; may be ''.
    """

    names: Tuple[str, ...]
    before: str
    after: Optional[str]
    note: str = ''

    @classmethod
    def of(cls, paths: Sequence[Path], old: nn.Module, new: Optional[nn.Module], note: str = '') -> 'LayerReport':
        """Make the entry for ``old`` at ``paths``, replaced by ``new`` or left (None)."""
        return cls(tuple(map(dotted, paths)), type(old).__name__, None if new is None else type(new).__name__, note)

    @property
    def label(self) -> str:
        """The names in one string."""
        return ' = '.join(name or '(root)' for name in self.names)


@dataclass(frozen=True)
class ConversionReport:
    """Every norm of a network after a conversion, in the order of ``named_modules``. ``print(report)`` is a table."""

    layers: Tuple[LayerReport, ...]

    @property
    def converted(self) -> List[LayerReport]:
        """The norms that were replaced."""
        return [layer for layer in self.layers if layer.after is not None]

    @property
    def left(self) -> List[LayerReport]:
        """The norms that were not, each with the reason in ``note``."""
        return [layer for layer in self.layers if layer.after is None]

    def __str__(self) -> str:
        rows = [('layer', 'before', 'after', 'note')]
        rows += [(layer.label, layer.before, layer.after or 'left', layer.note) for layer in self.layers]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return '\n'.join([f'{len(self.converted)} of {len(self.layers)} norms converted', *lines])
