"""Which image files a user means."""
import glob
import os
from pathlib import Path
from typing import List, Sequence

from iebn_zoo.data.folder import images_below
from iebn_zoo.data.listing import natural_key
from iebn_zoo.util.errors import UsageError


def image_paths(given: Sequence[str]) -> List[str]:
    """List the image files that a user means: files, all images below directories, and matches of patterns.

    The files of a directory or a pattern such as ``'photos/*.jpg'`` come in the order of names, ``a_2`` before
    ``a_10``, and each file once. A file that the user names is taken whatever its name is. Hidden files and files of
    other kinds in directories are skipped; links to folders are followed.

    Raises:
        UsageError: One of them gives no image, or a link in a directory leads nowhere or to a folder around it.
        IEBNZooError: A folder cannot be read.
    """
    found: List[str] = []
    for text in given:
        path = Path(text)
        if path.is_file():
            files = [text]
        elif path.is_dir():
            files = images_below(path)
        else:
            files = [f for match in sorted(glob.glob(text, recursive=True), key=natural_key)
                     for f in (images_below(Path(match)) if os.path.isdir(match) else [match])]
        if not files:
            kind = 'directory with images' if path.is_dir() else 'image file'
            raise UsageError(f'no {kind} at {text}.\nGive image files, directories, or patterns such as '
                             f"'photos/*.jpg'.")
        found += files
    return list(dict.fromkeys(found))
