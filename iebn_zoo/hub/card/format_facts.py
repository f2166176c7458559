"""What a card says of a file for another runtime."""
from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class FormatFacts:
    """A format of the export, measured.

    Attributes:
        name: Its name on the command line, such as ``'onnx'``.
        title: Its name for people.
        files: Its files; a runtime is given the first.
        runtime: The runtime that ran it, with its version.
        difference: Largest absolute difference to the golden logits.
        largest: Largest absolute golden logit.
    """

    name: str
    title: str
    files: Tuple[str, ...]
    runtime: str
    difference: float
    largest: float
