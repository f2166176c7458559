"""The parser of every command: defaults in its help, short errors, and the nearest flag to a mistyped one."""
import argparse
import difflib
import re
import sys
from typing import Any, Iterable, NoReturn, Optional, Sequence

_MANY = 15  # flags, beyond which a usage of all of them cannot be read


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``Did you mean train?`` for the known word that is nearest to ``word``; empty where none is near."""
    names = {name.lstrip('-'): name for name in known}
    near = difflib.get_close_matches(word.lstrip('-'), list(names), n=1, cutoff=0.7)
    return f'Did you mean {names[near[0]]}?' if near else ''


def shown_default(action: argparse.Action) -> Optional[str]:
    """The default of a flag as ``--help`` shows it; None where there is none to show, as for a switch that is off."""
    value = action.default
    if value is None or value is False or value == argparse.SUPPRESS or value in ('', [], {}):
        return None
    return ' '.join(map(str, value if isinstance(value, (list, tuple)) else [value]))


class HelpFormatter(argparse.HelpFormatter):
    """Shows the default of each flag behind its text, unless the text tells the default itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or '', shown_default(action)
        return text if default is None or 'default' in text else f'{text} (default: {default.replace("%", "%%")})'


class RawHelpFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The same, with the line ends of description and epilog as they are."""


class Parser(argparse.ArgumentParser):
    """``argparse.ArgumentParser`` with the help and the errors of this package.

    An error is one line, with a hint where a flag is mistyped, and a line of usage. The exit code is 2.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', HelpFormatter)
        super().__init__(**kwargs)

    def add_argument_group(self, title: Any = None, *args: Any, **kwargs: Any) -> argparse._ArgumentGroup:
        """Return the group that has this title already, or a new one: several modules add flags to one group."""
        found = (group for group in self._action_groups if title is not None and group.title == title)
        return next(found, None) or super().add_argument_group(title, *args, **kwargs)

    def parse_known_args(self, args: Optional[Sequence[str]] = None, namespace: Any = None) -> Any:
        """Refuse a mistyped ``--flag`` before anything else, so that no other error hides it."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words[:words.index('--')] if '--' in words else words:
            flag = word.partition('=')[0]
            if flag.startswith('--') and ' ' not in flag and not self._knows(flag):
                hint = did_you_mean(flag, self._flags())
                self.error(f'unknown flag {flag}.' + (f'\n{hint}' if hint else ''))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and a line of usage to stderr and exit with code 2."""
        message = re.sub(r'\bhf_[A-Za-z0-9]{4,}\b', '<token>', message)  # a word in the wrong place may be one
        end = '' if message.endswith(('.', '?')) else '.'
        self.exit(2, f'error: {message}{end}\nusage: {self._short_usage()}; see {self.prog} --help\n')

    def print_help(self, file: Any = None) -> None:
        """Print the help; an error of writing is raised, which argparse would hide."""
        print(self.format_help(), end='', file=file)

    def format_help(self) -> str:
        """Write the help; its usage is one line where the list of flags says the rest better."""
        if len(self._actions) > _MANY:
            self.usage = self._short_usage()
        return super().format_help()

    def _short_usage(self) -> str:
        needed = [_word(action) for action in self._actions
                  if action.required or (not action.option_strings and action.help != argparse.SUPPRESS)]
        return ' '.join([self.prog, *needed, '[FLAGS]'])

    def _flags(self) -> Sequence[str]:
        return [flag for action in self._actions if action.help != argparse.SUPPRESS for flag in action.option_strings]

    def _knows(self, flag: str) -> bool:
        known = self._option_string_actions
        return flag in known or (self.allow_abbrev and any(name.startswith(flag) for name in known))


def _word(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else (action.metavar or [action.dest.upper()])[0]
    if action.option_strings:
        return f'{action.option_strings[-1]} {name}'
    return {'?': f'[{name}]', '*': f'[{name} ...]', '+': f'{name} ...'}.get(str(action.nargs), name)
