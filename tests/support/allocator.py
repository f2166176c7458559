"""The C library's allocator in the processes of tests."""
import os
import sys
from typing import Dict

import pytest

from iebn_zoo.util.device import ALLOCATOR_VARIABLES


def default_allocator() -> Dict[str, str]:
    """Return the environment without what chooses another allocator or another setting of it."""
    return {name: value for name, value in os.environ.items() if name not in (*ALLOCATOR_VARIABLES, 'LD_PRELOAD')}


def _is_glibc() -> bool:
    try:
        return sys.platform == 'linux' and bool(os.confstr('CS_GNU_LIBC_VERSION'))
    except (ValueError, OSError):
        return False


needs_glibc = pytest.mark.skipif(not _is_glibc(), reason='glibc alone hands memory back')
