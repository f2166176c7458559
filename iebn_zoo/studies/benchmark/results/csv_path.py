"""Where results may be written."""
from pathlib import Path
from typing import Union

from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.results import ANYTHING, check_file


def usable_csv(path: Union[str, Path], overwrite: bool) -> Path:
    """Check ``--output`` of a benchmark and return it.

    Raises:
        UsageError: The name does not end in .csv, its directory is missing, or the file or its chart exists without
            ``overwrite``.
        IEBNZooError: They cannot be written.
    """
    output = Path(path)
    if output.suffix != '.csv':
        raise UsageError(f'--output is {str(path)!r}, expected a name that ends in .csv.')
    for file in (output, output.with_suffix('.png')):
        if file.is_file() and not overwrite:
            raise UsageError(f'{file} exists.\nGive another --output, or --overwrite.')
        check_file('--output', file, ANYTHING)
    return output
