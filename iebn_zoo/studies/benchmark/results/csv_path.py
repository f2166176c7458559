"""Where results may be written."""
from pathlib import Path
from typing import Union

from iebn_zoo.util.errors import UsageError


def usable_csv(path: Union[str, Path], overwrite: bool) -> Path:
    """Check ``--output`` of a benchmark and return it.

    Raises:
        UsageError: The name does not end in .csv, its directory is missing, or the file exists without ``overwrite``.
    """
    output = Path(path)
    if output.suffix != '.csv':
        raise UsageError(f'--output is {str(path)!r}, expected a name that ends in .csv.')
    if not output.parent.is_dir():
        raise UsageError(f'no such directory: {output.parent}, for --output {path}.\nMake it, or name another.')
    if output.exists() and not overwrite:
        raise UsageError(f'{output} exists.\nGive another --output, or --overwrite.')
    return output
