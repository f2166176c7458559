"""Names and paths from data, made safe to stand in a card."""
import re
from typing import Any, List, Optional, Sequence

# flags whose value is a place on somebody's machine, and what stands for it
_PLACES = {'--data-dir': 'DATA', '--output': 'RUN', '--resume': 'CHECKPOINT', '--initial-checkpoint': 'CHECKPOINT'}
# a flag and its value as one argument: --flag, --flag=VALUE, -fVALUE, VALUE; a negative number is a value
_PART = re.compile('(--[^=]*=?|-[A-Za-z]|)(.*)', re.DOTALL)
# values with a slash that are no paths
_NAMES = re.compile(r'torch/\w+|hf[-_]hub:[\w.-]+/[\w.-]+(@[\w./-]+)?')
_HTML = {'&': '&amp;', '<': '&lt;', '>': '&gt;'}


def escape(value: Any, limit: int = 200) -> str:
    """One line of text that Markdown, a Markdown table and HTML show as it is."""
    text = ' '.join(str(value).split())
    text = text if len(text) <= limit else text[:limit - 1] + '…'
    text = ''.join(c for c in text if c.isprintable())
    text = re.sub('[&<>]', lambda m: _HTML[m.group()], text)
    text = re.sub(r'([\\`*_{}\[\]|#~$])', r'\\\1', text)
    return re.sub(r'^([-+=]|\d+\.)', r'\\\1', text)


def code(value: Any) -> str:
    """Inline code; a backtick or bar in it cannot end it."""
    text = ' '.join(str(value).split()).replace('`', "'").replace('|', '¦')
    return f"`{''.join(c for c in text if c.isprintable())}`"


def without_paths(command: Sequence[str]) -> List[str]:
    """Return a command line in which a word or a bare file name stands for each place on somebody's machine."""
    out: List[str] = []
    place: Optional[str] = None  # what stands for the value of the flag that is being read
    for part in command:
        flag, value = _PART.findall(part)[0]
        if flag:
            place = _place(flag.rstrip('='))
        ends = bool(value) or not flag
        out.append(flag + ((place or local_name(value)) if ends else ''))
        place = None if ends else place
    return out


def _place(flag: str) -> Optional[str]:
    # argparse takes any unambiguous beginning of a flag
    return next((word for name, word in _PLACES.items() if len(flag) > 2 and name.startswith(flag)), None)


def local_name(value: str) -> str:
    """The last part of a path; names of models and datasets, and other values, as they are."""
    scheme = 'local-dir:' if value.startswith('local-dir:') else ''
    if _NAMES.fullmatch(value):
        return value
    return scheme + re.split(r'[\\/]', value[len(scheme):].rstrip('\\/'))[-1]
