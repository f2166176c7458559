"""Tables as CSV: UTF-8, ``\\n`` line ends, a header, and whole files that replace the old ones at once."""
import csv
import io
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Union

from iebn_zoo.util.files import write_text

CSVError = csv.Error


def csv_text(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """The text of a table. None becomes an empty field.

    Args:
        columns: The header.
        rows: One value per column each.
    """
    return ''.join(map(_line, [columns, *rows]))


def _line(row: Sequence[object]) -> str:
    # the writer quotes a carriage return in a field only where line ends have one
    text = io.StringIO()
    csv.writer(text, lineterminator='\r\n').writerow(row)
    return text.getvalue()[:-2] + '\n'


def write_csv(
        path: Union[str, Path], rows: Sequence[Mapping[str, Any]], columns: Optional[Sequence[str]] = None,
        digits: Optional[int] = None,
) -> None:
    """Write ``rows`` to ``path`` atomically. A row that lacks a column gets an empty field.

    Args:
        path: File to write.
        rows: Values by column.
        columns: The header; None for every key of the rows, in the order in which the keys appear.
        digits: Significant digits of floats; None for all of them.

    Raises:
        IEBNZooError: The file cannot be written.
        ValueError: A row has a key that is not in ``columns``.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = keys if columns is None else columns
    unknown = set(keys) - set(columns)
    if unknown:
        raise ValueError(f'{path} has no columns for {sorted(unknown)}')
    write_text(path, csv_text(columns, ([_field(row.get(column), digits) for column in columns] for row in rows)))


def read_csv(
        path: Union[str, Path], kinds: Mapping[str, Callable[[str], Any]], rest: Callable[[str], Any] = float,
) -> List[Dict[str, Any]]:
    """Read the rows of a table, with either kind of line ends. A row lacks the columns in which its field is empty.

    Args:
        path: File to read.
        kinds: What makes a value of a field, by column.
        rest: The same for all other columns.

    Raises:
        OSError: The file cannot be read.
        ValueError, TypeError, csv.Error: A field is not of its kind, or a row is too short or too long.
    """
    with open(path, newline='', encoding='utf-8') as file:
        return [{k: kinds.get(k, rest)(v) for k, v in row.items() if v != ''} for row in csv.DictReader(file)]


def _field(value: Any, digits: Optional[int]) -> Any:
    return f'{value:.{digits}g}' if digits is not None and isinstance(value, float) else value
