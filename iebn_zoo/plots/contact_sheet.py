"""Contact sheets: PNG files with many images, each with lines of text below it."""
import math
from pathlib import Path
from typing import Callable, List, Sequence, Tuple

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import atomic_write
from iebn_zoo.util.results import picture_kind

_SIDE = 200  # px of an image, at most
_GAP = 12
_LINE = 17
_FONT_SIZE = 13
_COLUMNS, _ROWS = 6, 8  # of a sheet, at most

KIND = picture_kind('a contact sheet of iebn-zoo')
Cell = Tuple[Image.Image, Sequence[str]]


def write_contact_sheets(
        directory: Path, cells: Sequence[Callable[[], Cell]], stem: str = 'contact_sheet',
) -> List[Path]:
    """Draw up to 48 images on each sheet, ``STEM_1.png`` and so on.

    Args:
        directory: Directory to write to; it is made if it is not there.
        cells: Functions that return an image and the lines below it. Each is called when its sheet is drawn, so that
            only the images of one sheet are in memory.
        stem: Stem of the file names.

    Returns:
        The files.

    Raises:
        IEBNZooError: They cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise IEBNZooError(f'cannot make {directory}: {e.strerror or e}.\nGive a writable place.') from e
    paths, about = [], PngInfo()
    about.add_text('Title', KIND.name)
    for name, start in zip(sheet_names(len(cells), stem), range(0, len(cells), _COLUMNS * _ROWS), strict=True):
        path = directory / name
        sheet = draw_sheet([cell() for cell in cells[start:start + _COLUMNS * _ROWS]])
        with atomic_write(path) as file:
            sheet.save(file, 'PNG', pnginfo=about)
        paths.append(path)
    return paths


def sheet_names(count: int, stem: str = 'contact_sheet') -> List[str]:
    """Return the names of the files that ``write_contact_sheets`` writes for ``count`` images."""
    return [f'{stem}_{number + 1}.png' for number in range(math.ceil(count / (_COLUMNS * _ROWS)))]


def draw_sheet(cells: Sequence[Cell]) -> Image.Image:
    """Draw one sheet."""
    # DejaVu comes with matplotlib; Pillow's own font has Latin letters only
    font = ImageFont.truetype(findfont('DejaVu Sans'), _FONT_SIZE)
    lines = max(len(text) for _, text in cells)
    columns = min(_COLUMNS, len(cells))
    width, height = _SIDE + _GAP, _SIDE + _GAP + _LINE * lines
    sheet = Image.new('RGB', (columns * width + _GAP, math.ceil(len(cells) / columns) * height + _GAP), 'white')
    draw = ImageDraw.Draw(sheet)
    for number, (image, text) in enumerate(cells):
        left, top = number % columns * width + _GAP, number // columns * height + _GAP
        small = _fitted(image)
        sheet.paste(small, (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2))
        for line, words in enumerate(text):
            position = (left, top + _SIDE + 2 + _LINE * line)
            draw.text(position, _cut(words, font), fill='black' if line == 0 else '#555555', font=font)
    return sheet


def _fitted(image: Image.Image) -> Image.Image:
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # small images keep their pixels as squares: smoothed, 32 px would be a blur
    smoothing = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert('RGB').resize((width, height), smoothing)


def _cut(words: str, font: ImageFont.FreeTypeFont) -> str:
    words = ''.join(c if c.isprintable() else '?' for c in words)
    if font.getlength(words) <= _SIDE:
        return words
    while words and font.getlength(f'{words}...') > _SIDE:
        words = words[:-1]
    return f'{words}...'
