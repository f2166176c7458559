"""Image files: which names are images, and how one becomes 8-bit pixels."""
import errno
from pathlib import Path, PurePath
from typing import Any, Callable, Dict, FrozenSet, Tuple, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from iebn_zoo.util.errors import IEBNZooError, UsageError

# Pillow opens these formats but does not decode them by itself: EPS starts Ghostscript on the file, WMF needs Windows,
# and the others need another library, or are no pictures
_NOT_DECODED = ('EPS', 'PDF', 'WMF', 'MPEG', 'BUFR', 'GRIB', 'HDF5', 'FPX', 'MIC', 'FITS')
# a file that cannot be read is no corrupt image: to skip it would hide that too many files are open, for instance
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.EIO, errno.ESTALE)

# by the number of channels that a network takes: the PIL mode in which its images are opened
IMAGE_MODES = {1: 'L', 3: 'RGB'}
_MODES_ADVICE = 'Give a network of 1 or 3 channels, or run this one in Python on tensors of your own.'
BACKGROUND = (255, 255, 255)  # under transparent pixels
# samples of PNG that Pillow brings to 8 bits, by its name for them, and what it does with each
_TO_8_BITS: Dict[str, Callable[[int], int]] = {
    'L;2': lambda sample: sample * 85, 'L;4': lambda sample: sample * 17, 'RGB;16B': lambda sample: sample >> 8}


class ImageError(IEBNZooError):
    """Something is wrong with an image file."""

    def __init__(self, message: str) -> None:
        # a loader process hands its error over as text with the traceback; the last part is for the user
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


class CorruptImageError(ImageError):
    """An image cannot be decoded."""

    def with_flag(self) -> 'CorruptImageError':
        """Return the error for a command that has ``--skip-corrupt``."""
        return CorruptImageError(f'{str(self).splitlines()[0]}\n'
                                 f'Replace or remove it, or skip such images with --skip-corrupt.')


class UnreadableImageError(ImageError):
    """The system does not let us read an image file, or has too little memory for it."""


def decoded_formats() -> Tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded, such as JPEG, PNG, WEBP, TIFF and GIF."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


def image_suffixes() -> FrozenSet[str]:
    """Return the suffixes of image files, in lower case and with their dot."""
    formats = set(decoded_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def is_image_name(name: str, suffixes: FrozenSet[str]) -> bool:
    """Say whether a file of this name counts as an image."""
    return PurePath(name).suffix.lower() in suffixes


def is_other_name(name: str, suffixes: FrozenSet[str]) -> bool:
    """Say whether this is the name of a file of another kind, such as notes.txt. One without a suffix of letters may be
    a folder of images."""
    suffix = PurePath(name).suffix.lower()
    return suffix[1:].isalpha() and suffix not in suffixes and suffix != '.tar'


def decode(file: Any, mode: str, name: str) -> Image.Image:
    """Decode an image file to the pixels that training, evaluation and prediction see.

    The first frame counts, turned as its EXIF orientation says. Samples of 16 bits are divided by 257. The range of
    float samples is the smallest that holds them of 0 to 1, 0 to 255 and 0 to 65535; that of integers of 32 bits is
    0 to 255 or 0 to 65535. Transparent pixels get the background ``BACKGROUND``, white.

    Args:
        file: An open binary file or a path.
        mode: ``'RGB'`` or ``'L'``.
        name: The name of the image, for messages.

    Raises:
        CorruptImageError: The content cannot be decoded.
        UnreadableImageError: The file cannot be read, or memory is too small for the image.
    """
    try:
        with Image.open(file, formats=decoded_formats()) as image:
            _mend_transparency(image)
            image.load()
            return to_mode(image, mode)
    except MemoryError as e:
        raise UnreadableImageError(f'the image {name} does not fit into memory.\nMake it smaller, or remove it.') from e
    except OSError as e:
        if e.errno in _UNREADABLE:
            raise unreadable(name, e) from e
        raise corrupt(name, e) from e
    except Exception as e:  # every decoder has exceptions of its own
        raise corrupt(name, e) from e


def open_image(path: Union[str, Path], mode: str = 'RGB') -> Image.Image:
    """Open an image file as training and evaluation see it; see ``decode``.

    Args:
        path: The path of the file.
        mode: ``'RGB'`` or ``'L'``.

    Raises:
        CorruptImageError: The content cannot be decoded.
        IEBNZooError: It cannot be read.
    """
    if not Path(path).is_file():
        raise IEBNZooError(f'no image at {path}.\nGive the path of an image file.')
    return decode(path, mode, str(path))


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert a decoded image to ``mode``, 8 bits per sample; see ``decode``.

    Raises:
        ValueError: The range of its samples is unknown.
    """
    wide = image.format in ('PPM', 'PNG')  # of 16 bits, which Pillow reads as 32; it did so for PNG before 10.3
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I') or image.mode == 'F':
        deep = image.mode != 'I' or wide
        samples = np.asarray(image)
        grey = _to_bytes(samples, deep)
        if 'transparency' in image.info:  # of a PNG: the sample that is transparent
            grey[samples == image.info['transparency']] = BACKGROUND[0]
        return Image.fromarray(grey).convert(mode)
    if image.mode == 'LAB':
        image = image.convert('RGB')  # the only one that Pillow converts it to
    if _has_transparency(image):
        image = image.convert('RGBA')
        ground = Image.new('RGBA', image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def image_mode(channels: int, shown: str, advice: str = _MODES_ADVICE) -> str:
    """Return the PIL mode in which images are opened for a network that takes ``channels`` of them.

    Args:
        channels: 1 or 3.
        shown: Name of the network in the message.
        advice: Last line of the message.

    Raises:
        UsageError: Image files are not opened with so many channels.
    """
    if channels not in IMAGE_MODES:
        raise UsageError(f'{shown} takes images of {channels} channels, and image files are opened with 1 (grey) or 3 '
                         f'(RGB).\n{advice}')
    return IMAGE_MODES[channels]


def unreadable(name: str, error: OSError) -> UnreadableImageError:
    """Make the error of an image file that the system does not let us read."""
    return UnreadableImageError(f'cannot read the image {name}: {error.strerror or error}.\n'
                                f'Make it readable, or remove it and start again.')


def _has_transparency(image: Image.Image) -> bool:
    # as Pillow's has_transparency_data, which came with version 10.1
    palette = image.palette.mode if image.mode == 'P' and image.palette is not None else ''
    return image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info or palette.endswith('A')


def _mend_transparency(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG that is not loaded yet to 8 bits, as Pillow brings its samples.

    Pillow compares them as they stand in the file. It takes the high byte of samples of 16 bits, so a colour that
    differs in low bytes alone counts as transparent too.
    """
    value = image.info.get('transparency')
    parts = getattr(image, 'tile', None)  # of a file that is not loaded: decoder, place, and what the samples are
    to_8_bits = _TO_8_BITS.get(str(parts[0][3])) if image.format == 'PNG' and parts else None
    if value is not None and to_8_bits is not None:
        image.info['transparency'] = (
            tuple(map(to_8_bits, value)) if isinstance(value, tuple) else to_8_bits(value))


def _to_bytes(samples: np.ndarray, deep: bool) -> np.ndarray:
    # deep: integers have 16 bits, however small they are
    low, high = float(samples.min()), float(samples.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise ValueError(f'its samples are from {low:g} to {high:g}, expected 0 to 1, 0 to 255, or 0 to 65535')
    wide = samples.astype(np.float64)
    if samples.dtype.kind == 'f' and high <= 1:
        wide *= 255
    elif high > 255 or samples.dtype.kind != 'f' and deep:
        wide /= 257
    return wide.round().astype(np.uint8)


def corrupt(name: str, error: Exception) -> CorruptImageError:
    """Make the error of an image that cannot be decoded."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # whose text names an object of Python
        text = 'its content is of no format that Pillow reads'
    return CorruptImageError(f'cannot decode the image {name}: {text}.\nReplace or remove it.')
