"""What the program in a TorchScript file may do before it is run: compute, and nothing else.

TorchScript is a language with operators that read and write files, and parts of a program run while it is loaded. A
file of a stranger is therefore read as text first. Afterwards its operators are compared with those of the network.
"""
import re
import zipfile
from pathlib import Path
from typing import Any, Iterator, Set

from iebn_zoo.util.errors import IEBNZooError, first_line

# code that runs while a file is loaded or around a call, and classes of torch that are not written in TorchScript
_HIDDEN = re.compile(rb'__setstate__|__getstate__|__forward_hooks__|__forward_pre_hooks__|torch\.classes|torch_classes')
# a network of a run with --drop has it, and the one that config.json describes has not; in evaluation it does nothing
_INERT = frozenset({'aten::dropout', 'aten::feature_dropout', 'aten::alpha_dropout'})
_OUTSIDE = re.compile(r'aten::(save|from_file)|prim::rpc_\w+|(?!aten::|prim::)\w+::\w+')


class OtherOperators(IEBNZooError):
    """A program has an operator that the network does not have. It reaches nothing outside, and was not run."""


def check_archive(path: Path) -> None:
    """Refuse an archive that would run something while it is loaded.

    Raises:
        IEBNZooError: It is no archive as torch writes it, or it holds such a part.
    """
    try:
        with open(path, 'rb') as file:
            begin = file.read(4)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename.lower() for entry in entries]  # torch finds a record in any case of its letters
            if begin != b'PK\x03\x04' or len(set(names)) < len(names) or any(e.compress_type for e in entries):
                raise zipfile.BadZipFile('an export writes no such archive')
            for entry, name in zip(entries, names, strict=True):
                found = _HIDDEN.search(archive.read(entry)) if name.endswith(('.py', '.pkl')) else None
                if found:
                    raise _refused(path, found[0].decode())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as e:
        raise IEBNZooError(f'{path} is not an archive of TorchScript ({first_line(e, 100)}).\n'
                           f'Expected the file that an export wrote. Download or export it again.') from e


def check_operators(path: Path, program: Any, own: Any) -> None:
    """Compare the operators of a loaded program with those of the network's own trace.

    Args:
        path: The file, for a message.
        program: What ``torch.jit.load`` returned.
        own: The trace of the network.

    Raises:
        OtherOperators: It has an operator that the trace has not.
        IEBNZooError: It has one that reaches files, other machines or code outside torch.
    """
    found = _operators(program)
    outside = sorted(kind for kind in found if _OUTSIDE.fullmatch(kind))
    if outside:
        raise _refused(path, outside[0])
    other = sorted(found - _operators(own) - _INERT)
    if other:
        raise OtherOperators(f'its program has the operator {other[0]}, which the network has not with this version '
                             f'of torch and timm')


def _refused(path: Path, what: str) -> IEBNZooError:
    return IEBNZooError(f'{path} holds {what}, by which a program can reach beyond its input. It was not run.\n'
                        f'Expected a program that only computes. Do not load this file; export the network again.')


def _operators(program: Any) -> Set[str]:
    return {node.kind() for node in _nodes(program.inlined_graph)}


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
