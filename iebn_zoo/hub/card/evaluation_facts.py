"""What the files of an export get right on evaluation images, in float32 on the CPU: evaluation.json."""
import json
from pathlib import Path
from typing import NamedTuple, Optional

from iebn_zoo.util.errors import IEBNZooError

EVALUATION = 'evaluation.json'


class Evaluation(NamedTuple):
    """How many of the evaluation images the files get right.

    Attributes:
        top1_count: Number of images whose first class is right.
        top5_count: Number of images with the right class among the first five.
        count: Number of images.
        loss: Mean cross-entropy.
    """

    top1_count: int
    top5_count: int
    count: int
    loss: float

    @property
    def top1(self) -> float:
        """Top-1 in percent."""
        return 100 * self.top1_count / self.count

    @property
    def top5(self) -> float:
        """Top-5 in percent."""
        return 100 * self.top5_count / self.count


def read_evaluation(directory: Path) -> Optional[Evaluation]:
    """Read evaluation.json of an export; None where it was not measured.

    Raises:
        IEBNZooError: The file is damaged.
    """
    path = directory / EVALUATION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        found = Evaluation(int(content['top1_count']), int(content['top5_count']), int(content['count']),
                           float(content['loss']))
        if not 0 <= found.top1_count <= found.top5_count <= found.count or not found.count:
            raise ValueError('the counts contradict each other')
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise IEBNZooError(f'cannot read {path}: {e!r}.\nExport the run again.') from e
