"""What the program in a TorchScript file may do before it is run: compute, and nothing else.

TorchScript is a language with operators that read and write files, and parts of a program run while it is loaded: a
constant of a class, the default of an argument, ``__setstate__``. A file of a stranger is therefore read as text first,
and torch is given the bytes that were read. Afterwards its operators are compared with those of the network.
"""
import io
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, Iterator, Optional, Set

from iebn_zoo.util.errors import IEBNZooError, first_line

# code that runs while a file is loaded or around a call, and classes of torch that are not written in TorchScript
_HIDDEN = re.compile(
    rb'__setstate__|__getstate__|__forward_hooks__|__forward_pre_hooks__|torch\W*classes|torch_classes')
# a network of a run with --drop has it, and the one that config.json describes has not; in evaluation it does nothing
_INERT = frozenset({'aten::dropout', 'aten::feature_dropout', 'aten::alpha_dropout'})
_OUTSIDE = re.compile(r'aten::(save|from_file)|prim::rpc_\w+|(?!aten::|prim::)\w+::\w+')
_LEGACY = 'model.json'  # torch would read such an archive with another importer, which finds code under any name

# The lines around the bodies of methods, as torch prints them. Only literals stand right of =, because torch computes
# that side while it loads the file.
_NAME, _TYPE = r'[A-Za-z_]\w*', r'[\w.]+(?:\[[\w., \[\]]*\])?'
_ATOM = r'(?:-?\d[\w.]*(?:[+-]\d+)?|True|False|None|"[\w. -]*")'
_LITERAL = rf'(?:{_ATOM}|[\[(](?:{_ATOM}(?:, {_ATOM})*(?:, ?)?)?[\])])'
_ARGUMENT = rf'{_NAME}: {_TYPE}(?:={_LITERAL})?'
_HEAD = rf'def {_NAME}\((?:{_ARGUMENT}(?:, ?(?:\n *)?{_ARGUMENT})*)?\) -> {_TYPE}:\n'
_OUTLINE = re.compile(
    rf'(?P<function>{_HEAD})|(?P<method>  {_HEAD})|(?P<other>'
    rf'class {_NAME}\(Module\):\n|'
    rf'  __(?:parameters|buffers)__ = \[(?:"[^"\\\n]*", )*\]\n|'
    rf'  __annotations__ = \[\]\n|'
    rf'  __annotations__\["[^"\\\n]*"\] = {_TYPE}\n|'
    rf'  {_NAME} : {_TYPE}(?: = {_LITERAL})?\n)')
_BODY = {'function': '  ', 'method': '    '}  # how a line of a body begins
_NESTED = re.compile(r'\b(?:def|class|lambda)\b')

_END = struct.Struct('<4s4H2IH')  # the last record of an archive, without its comment
_LOCATOR = 20  # bytes of the record before it, in an archive with a second, larger directory


class OtherOperators(IEBNZooError):
    """A program has an operator that the network does not have. It reaches nothing outside, and was not run."""


def read_archive(path: Path) -> io.BytesIO:
    """Read an archive, refuse one that would run something while it is loaded, and return it written anew.

    Two readers of archives may find different entries in one file. torch must therefore be given what this function
    returns, and not the file.

    Raises:
        IEBNZooError: It is no archive as an export writes it, or it holds such a part.
    """
    fresh = io.BytesIO()
    try:
        with open(path, 'rb') as file, zipfile.ZipFile(file) as archive, zipfile.ZipFile(fresh, 'w') as made:
            entries = archive.infolist()
            names = [entry.filename.lower() for entry in entries]  # torch finds a record in any case of its letters
            _check_one_directory(file, len(entries))
            if len(set(names)) < len(names) or any(entry.compress_type for entry in entries):
                raise zipfile.BadZipFile('an export writes no such archive')
            for entry, name in zip(entries, names, strict=True):
                content = archive.read(entry)
                _check_entry(path, name, content)
                made.writestr(zipfile.ZipInfo(entry.filename), content)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as e:
        raise IEBNZooError(f'{path} is not an archive of TorchScript ({first_line(e, 100)}).\n'
                           f'Expected the file that an export wrote. Download or export it again.') from e
    fresh.seek(0)
    return fresh


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


def _check_one_directory(file: Any, entries: int) -> None:
    """Raise BadZipFile unless the archive begins with an entry and ends with the only directory that it has."""
    file.seek(0)
    begin = file.read(4)
    end = file.seek(0, io.SEEK_END) - _END.size
    file.seek(max(0, end - _LOCATOR))
    locator, record = file.read(4), file.seek(end) and file.read()
    mark, disk, first, here, count, size, offset, comment = _END.unpack(record)
    if begin != b'PK\x03\x04' or mark != b'PK\x05\x06' or locator == b'PK\x06\x07':
        raise zipfile.BadZipFile('an export writes no such archive')
    if disk or first or comment or not here == count == entries or offset + size != end:
        raise zipfile.BadZipFile('its directory is not the one that an export writes')


def _check_entry(path: Path, name: str, content: bytes) -> None:
    if name.rpartition('/')[2] == _LEGACY:
        raise _refused(path, f'{_LEGACY}, an old form of code')
    if name.endswith(('.py', '.pkl')):
        found = _HIDDEN.search(content)
        if found:
            raise _refused(path, repr(found[0].decode('latin-1'))[1:-1][:40])
    if name.endswith('.py'):
        line = _odd_line(content)
        if line is not None:
            raise _refused(path, f'the line {line[:60]!r}')


def _odd_line(content: bytes) -> Optional[str]:
    """Return the first line that no trace of a network has, or None."""
    if not content.endswith(b'\n'):
        content += b'\n'
    code = content.decode('latin-1')
    # in a comment, a tab or a long string, a line could be another one for torch than it is here
    odd = re.search(r'[^\n -~]|[#\\]|"""|' + "'", code)
    position, body = 0, None
    while position < len(code):
        end = code.index('\n', position) + 1
        line = code[position:end - 1]
        if odd and odd.start() < end:
            return line
        if body is not None and line.startswith(body):
            if _NESTED.search(line):
                return line
        elif line:
            found = _OUTLINE.match(code, position)
            if not found:
                return line
            end, body = found.end(), _BODY.get(found.lastgroup or '')
        position = end
    return None


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
