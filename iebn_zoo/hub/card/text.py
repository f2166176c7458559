"""Names and paths from data, made safe to stand in a card."""
import re
from typing import Any, List, Optional, Sequence

# flags whose value is a place on somebody's machine, and what stands for it
_PLACES = {'--data-dir': 'DATA', '--output': 'RUN', '--resume': 'CHECKPOINT', '--initial-checkpoint': 'CHECKPOINT'}
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f"| {' | '.join(cells)} |" for cells in lines)


def without_paths(command: Sequence[str]) -> List[str]:
    """A command line with what is local to a machine replaced by a word."""
    out: List[str] = []
    place: Optional[str] = None
    for part in command:
        if not part.startswith('-') or _is_number(part):
            out.append(place or local_name(part))
            place = None
            continue
        flag, equals, value = part.partition('=')
        if not flag.startswith('--'):
            flag, equals, value = part[:2], '', part[2:]  # -cFILE
        place = _place(flag)
        if equals or value:
            out.append(f'{flag}{equals}{place or local_name(value)}')
            place = None
        else:
            out.append(flag)
    return out


def _place(flag: str) -> Optional[str]:
    # argparse takes any unambiguous beginning of a flag
    return next((word for name, word in _PLACES.items() if len(flag) > 2 and name.startswith(flag)), None)


def _is_number(part: str) -> bool:
    return re.fullmatch(r'-\.?\d.*', part) is not None


def local_name(value: str) -> str:
    """The last part of a path; names of models and datasets, and other values, as they are."""
    scheme = 'local-dir:' if value.startswith('local-dir:') else ''
    if _NAMES.fullmatch(value):
        return value
    return scheme + re.split(r'[\\/]', value[len(scheme):].rstrip('\\/'))[-1]
