"""Names and paths from data, made safe to stand in a card."""
import re
from pathlib import PurePath
from typing import Any, List, Sequence

# flags whose value is a place on somebody's machine, and what stands for it
_PLACES = {'--data-dir': 'DATA', '--output': 'RUN', '--resume': '', '--initial-checkpoint': 'CHECKPOINT'}
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
    return f'`{text}`'


def without_paths(command: Sequence[str]) -> List[str]:
    """A command line with what is local to a machine replaced by a word."""
    out: List[str] = []
    pending = None
    for part in command:
        flag, equals, _ = part.partition('=')
        if pending is not None and not part.startswith('-'):
            part, pending = pending, None
            if part:
                out.append(part)
            continue
        pending = None
        if flag in _PLACES:
            out.append(f'{flag}={_PLACES[flag]}' if equals else flag)
            pending = None if equals else _PLACES[flag]
        else:
            out.append(local_name(part))
    return out


def local_name(value: str) -> str:
    """The last part of a path; other values as they are."""
    prefix, colon, rest = value.partition('local-dir:')
    if colon and not prefix:
        return f'local-dir:{PurePath(rest).name}'
    looks_local = value.startswith(('/', './', '../', '~')) or re.match(r'[A-Za-z]:\\', value)
    is_file = value.endswith(('.yaml', '.yml', '.tar', '.pth', '.py', '.safetensors'))
    return PurePath(value.replace('\\', '/')).name if looks_local or is_file else value
