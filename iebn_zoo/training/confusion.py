"""Which classes a network confuses, and the images on which it is most wrong."""
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from iebn_zoo.plots.confusion import KIND as MATRIX_PICTURE
from iebn_zoo.plots.confusion import draw_confusion
from iebn_zoo.plots.contact_sheet import KIND as CONTACT_SHEET
from iebn_zoo.plots.contact_sheet import Cell, sheet_names, write_contact_sheets
from iebn_zoo.util.csv_files import csv_text
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.results import Kind, table_kind

_WORST = 48  # images: one contact sheet
_PAIRS = 10
MATRIX, PER_CLASS, PICTURE, SHEET = 'confusion.csv', 'per_class.csv', 'confusion.png', 'worst'
_COLUMNS = ('class', 'images', 'right', 'accuracy_percent', 'answers', 'precision_percent')
_SHEET, = sheet_names(_WORST, SHEET)
FILES = {MATRIX: Kind('a table of iebn-zoo validate --confusion', b'target,'),
         PER_CLASS: table_kind('a table of iebn-zoo validate --confusion', _COLUMNS), PICTURE: MATRIX_PICTURE,
         _SHEET: CONTACT_SHEET}


class Mistake(NamedTuple):
    """An image that the network put into another class.

    Attributes:
        loss: The cross-entropy.
        number: The position of the image in the data.
        target: The class index of the image.
        answer: The class index that the network gave.
        probability: The probability of the answer.
    """

    loss: float
    number: int
    target: int
    answer: int
    probability: float


class Confusion:
    """Counts of an evaluation in one process, batch by batch.

    Args:
        classes: The number of classes.

    Attributes:
        counts: (classes, classes), int64: rows are the targets, columns the answers.
        worst: The mistakes of the largest loss, the largest first.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        self.worst: List[Mistake] = []
        self.seen = 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count the next images.

        Args:
            logits: (B, classes).
            targets: (B,); an image with a negative target is skipped.
        """
        logits, targets = logits.float().cpu(), targets.cpu()
        known = targets >= 0
        losses = F.cross_entropy(logits, targets.clamp(min=0), reduction='none')
        best, answers = logits.softmax(1).max(1)
        cells = targets[known] * len(self.counts) + answers[known]
        self.counts += torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)
        for i in ((answers != targets) & known).nonzero().flatten().tolist():
            self.worst.append(Mistake(
                float(losses[i]), self.seen + i, int(targets[i]), int(answers[i]), float(best[i])))
        self.worst = sorted(self.worst, key=lambda m: (-m.loss, m.number))[:_WORST]
        self.seen += len(targets)

    def pairs(self) -> List[tuple]:
        """Return (target, answer, count) of the most frequent confusions, the most frequent first."""
        off = self.counts.clone().fill_diagonal_(0)
        values, cells = off.flatten().topk(min(_PAIRS, off.numel()))
        return [(*divmod(cell, len(off)), n) for n, cell in zip(values.tolist(), cells.tolist(), strict=True) if n]


def write_confusion(
        confusion: Confusion,
        directory: Path,
        names: Optional[Sequence[str]],
        title: str,
        open_image: Callable[[int], Image.Image],
) -> List[str]:
    """Write confusion.csv, per_class.csv, confusion.png and a contact sheet of the worst images.

    Args:
        confusion: The counts of a whole evaluation.
        directory: Where to write; it is made if needed.
        names: The names of the classes; None for their indices.
        title: The title of the picture.
        open_image: Position in the data -> image.

    Returns:
        The most frequent confusions, in words.

    Raises:
        IEBNZooError: A file cannot be written.
    """
    counts = confusion.counts
    names = [str(i) for i in range(len(counts))] if names is None else list(names)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise IEBNZooError(f'cannot make {directory}: {e.strerror or e}.\nGive --confusion a writable place.') from e
    write_text(directory / MATRIX, csv_text(
        ['target', *names], ([name, *row] for name, row in zip(names, counts.tolist(), strict=True))))
    right, totals, answered = counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist()
    rows = [[name, n, k, _percent(k, n), a, _percent(k, a)]
            for name, k, n, a in zip(names, right, totals, answered, strict=True)]
    write_text(directory / PER_CLASS, csv_text(_COLUMNS, rows))
    draw_confusion(directory / PICTURE, counts.numpy(), names, title)

    def cell(m: Mistake) -> Cell:
        said = [names[m.target], f'taken for {names[m.answer]}', f'{100 * m.probability:.1f} % sure']
        return open_image(m.number), said

    if confusion.worst:
        write_contact_sheets(directory, [lambda m=m: cell(m) for m in confusion.worst], SHEET)
    elif (directory / _SHEET).is_file() and CONTACT_SHEET.wrote(directory / _SHEET):  # of other weights
        (directory / _SHEET).unlink()
    return [f'{names[target]} taken for {names[answer]}: {n} of {totals[target]}'
            for target, answer, n in confusion.pairs()]


def _percent(part: int, whole: int) -> str:
    return f'{100 * part / whole:.4g}' if whole else ''
