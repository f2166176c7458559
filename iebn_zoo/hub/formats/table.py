"""The formats for other runtimes: their names, their files, and the packages that they need."""
import importlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from iebn_zoo.util.errors import UsageError, first_line
from iebn_zoo.util.resources import install_line

INPUT, OUTPUT = 'pixel_values', 'logits'  # the names that optimum gives to the input and the output of such a network


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: Its name on the command line.
        title: Its name for people.
        files: The files that it consists of; a runtime is given the first.
        packages: Modules that write and run it; the last one is the runtime.
        extra: The extra of iebn-zoo that installs ``packages``, or None where they are always there.
    """

    name: str
    title: str
    files: Tuple[str, ...]
    packages: Tuple[str, ...]
    extra: Optional[str] = None

    @property
    def file(self) -> str:
        """The file that a runtime is given."""
        return self.files[0]


FORMATS: Dict[str, Format] = {f.name: f for f in (
    Format('onnx', 'ONNX', ('model.onnx',), ('onnx', 'onnxruntime'), 'onnx'),
    Format('torchscript', 'TorchScript', ('model.torchscript.pt',), ('torch',)),
    Format('openvino', 'OpenVINO', ('openvino_model.xml', 'openvino_model.bin'), ('openvino',), 'openvino'),
)}
FORMAT_FILES: Tuple[str, ...] = tuple(file for f in FORMATS.values() for file in f.files)


def chosen_formats(names: Sequence[str]) -> Tuple[Format, ...]:
    """Return the formats of these names, each once, after their packages were imported.

    Args:
        names: Keys of ``FORMATS``.

    Raises:
        UsageError: There is no such format, or a package that it needs is not installed or does not import.
    """
    if isinstance(names, str):
        raise UsageError(f'formats is the text {names!r}.\nExpected a list of names, such as [{names!r}].')
    found: List[Format] = []
    for name in dict.fromkeys(names):
        if name not in FORMATS:
            raise UsageError(f'unknown format {name!r}.\nExpected some of {", ".join(FORMATS)}.')
        reason = missing_packages(FORMATS[name])
        if reason is not None:
            raise UsageError(f'--formats {name}: {reason}.\nLeave {name} out of --formats, or install the package.')
        found.append(FORMATS[name])
    return tuple(found)


def missing_packages(format: Format) -> Optional[str]:
    """Return why a format cannot be written and run here, with the command that helps; None where it can."""
    for package in format.packages:
        try:
            import_package(package)
        except Exception as e:  # a broken package raises what it likes, such as a TypeError of protobuf
            absent = isinstance(e, ModuleNotFoundError) and e.name == package
            kind = '' if isinstance(e, ImportError) else f'{type(e).__name__}: '
            why = 'is not installed' if absent else f'does not import ({kind}{first_line(e, 100)})'
            return f'{package} {why}: {install_line(format.extra)}'
    return None


def formats_of(files: Iterable[str]) -> Tuple[Format, ...]:
    """Return the formats of which a file is among ``files``."""
    there = set(files)
    return tuple(f for f in FORMATS.values() if there & set(f.files))


def import_package(name: str) -> Any:
    """Import an optional package; openvino without its telemetry.

    openvino tells a web service when it is imported and when it converts, unless its package for that is absent.

    Raises:
        ImportError: It is not installed.
        Exception: It is broken; each package has errors of its own.
    """
    with _absent('openvino_telemetry') if name == 'openvino' else _as_it_is():
        return importlib.import_module(name)


def runtime_of(format: Format) -> str:
    """Return the name and the version of the runtime, such as ``'onnxruntime 1.22.0'``."""
    package = format.packages[-1]
    version = str(getattr(import_package(package), '__version__', '')).split('-')[0]
    return f'{package} {version}'.strip()


@contextmanager
def _absent(name: str) -> Iterator[None]:
    # Python refuses to import a name for which sys.modules holds None
    modules: Dict[str, Optional[ModuleType]] = sys.modules  # pyright: ignore[reportAssignmentType] - None is allowed
    hidden = name not in modules
    if hidden:
        modules[name] = None
    try:
        yield
    finally:
        if hidden:
            modules.pop(name, None)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
