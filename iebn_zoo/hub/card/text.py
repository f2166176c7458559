"""Names and paths from data, made safe to stand in a card."""
import re
from typing import Any, List, Optional, Sequence

from iebn_zoo.util.places import DATASETS, dataset_name, local_name

# flags whose value is a place on somebody's machine, and the word that the card shows in its place
_PLACES = {'--data-dir': 'DATA', '--mix-dataset': 'DATA', '--output': 'RUN', '--resume': 'CHECKPOINT',
           '--initial-checkpoint': 'CHECKPOINT'}
_DATASETS = frozenset(f"--{name.replace('_', '-')}" for name in DATASETS)
# a flag and its value as one argument: --flag, --flag=VALUE, -fVALUE, VALUE; a negative number is a value
_PART = re.compile('(--[^=]*=?|-[A-Za-z]|)(.*)', re.DOTALL)
_HTML = {'&': '&amp;', '<': '&lt;', '>': '&gt;'}


def escape(value: Any, limit: int = 200) -> str:
    """Return ``value`` as one line of at most ``limit`` characters that Markdown, its tables and HTML show as it is."""
    text = ' '.join(str(value).split())
    text = text if len(text) <= limit else text[:limit - 1] + '…'
    text = ''.join(c for c in text if c.isprintable())
    text = re.sub('[&<>]', lambda m: _HTML[m.group()], text)
    text = re.sub(r'([\\`*_{}\[\]|#~$])', r'\\\1', text)
    return re.sub(r'^([-+=]|\d+\.)', r'\\\1', text)


def code(value: Any) -> str:
    """Return ``value`` as inline code, which no backtick or bar in it can end."""
    text = ' '.join(str(value).split()).replace('`', "'").replace('|', '¦')
    return f"`{''.join(c for c in text if c.isprintable())}`"


def without_paths(command: Sequence[str], data_dir: str = '') -> List[str]:
    """Return a command line in which a word or a bare file name stands for each place on somebody's machine.

    Args:
        command: Its words.
        data_dir: The directory of the images, which may stand in the command without a flag.
    """
    out: List[str] = []
    place: Optional[str] = None  # the word that replaces the value of the current flag
    named = False  # whether that value is the name of a dataset
    for part in command:
        flag, value = _PART.findall(part)[0]
        if flag:
            place = _place(flag.rstrip('='))
            named = place is None and flag.rstrip('=') in _DATASETS
        elif value and value == data_dir:
            place = place or 'DATA'
        ends = bool(value) or not flag
        out.append(flag + ((place or (dataset_name if named and value else local_name)(value)) if ends else ''))
        place, named = (None, False) if ends else (place, named)
    return out


def _place(flag: str) -> Optional[str]:
    # argparse takes any unambiguous beginning of a flag
    return next((word for name, word in _PLACES.items() if len(flag) > 2 and name.startswith(flag)), None)


def shown_setting(value: Any) -> str:
    """Return a setting as text, without the places on somebody's machine that it names."""
    if isinstance(value, dict):
        return '{' + ', '.join(f'{shown_setting(k)}: {shown_setting(v)}' for k, v in value.items()) + '}'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(shown_setting, value)) + ']'
    return local_name(value) if isinstance(value, str) else str(value)
