"""Predictions as text: for people, as CSV, as JSON."""
import json
from typing import List, Sequence

from iebn_zoo.prediction.predict import Prediction
from iebn_zoo.util.csv_files import csv_text
from iebn_zoo.util.results import Kind, table_kind

_COLUMNS = ('image', 'rank', 'class', 'label', 'probability')
CSV = table_kind('a table of iebn-zoo predict', _COLUMNS)
JSON = Kind('the JSON of iebn-zoo predict', b'[\n  {\n    "image": ')
_WIDEST = 40  # characters of a name; a longer one keeps its end, which tells files apart


def as_table(found: Sequence[Prediction]) -> str:
    """Write a line per image: the classes with their percentages."""
    names = [shortened(one_line(p.image), keep_end=True) for p in found]
    width = max((len(name) for name in names), default=0)
    lines = []
    for name, p in zip(names, found, strict=True):
        classes = [f'{100 * value:5.1f} % {shortened(one_line(label))}'
                   for value, label in zip(p.probabilities, p.labels, strict=True)]
        lines.append('  '.join([f'{name:<{width}}', *classes]))
    return '\n'.join(lines)


def as_csv(found: Sequence[Prediction]) -> str:
    """Write a row of CSV per image and class."""
    return csv_text(_COLUMNS, (
        (_utf8(p.image), rank, number, label, f'{value:.6g}') for p in found
        for rank, (number, label, value) in enumerate(zip(p.classes, p.labels, p.probabilities, strict=True), 1)))


def as_json(found: Sequence[Prediction]) -> str:
    """Write a JSON list of images, each with its classes."""
    content: List[dict] = [
        {'image': _utf8(p.image), 'classes': [
            {'class': c, 'label': label, 'probability': round(value, 6)}
            for c, label, value in zip(p.classes, p.labels, p.probabilities, strict=True)]} for p in found]
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'


def _utf8(name: str) -> str:
    # the name of a file may hold bytes that are no text
    return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')


def one_line(text: str) -> str:
    """Return ``text`` with a question mark for each character that cannot be printed, such as a line feed."""
    # a file name may hold any character, such as one that moves the cursor of a terminal
    return ''.join(c if c.isprintable() else '?' for c in text)


def shortened(text: str, keep_end: bool = False) -> str:
    """Return at most 40 characters of ``text``, its end if ``keep_end``."""
    if len(text) <= _WIDEST:
        return text
    return f'...{text[3 - _WIDEST:]}' if keep_end else f'{text[:_WIDEST - 3]}...'
