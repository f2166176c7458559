"""YAML as a user writes it: each key once, and the words as a command line would give them.

YAML 1.1 reads 010 as 8, 1:30 as 90 and 1e-4 as a text. A command line gives the word, and the flag reads it.
"""
from typing import Any, Dict, List, Optional, Set, Tuple

import yaml

from iebn_zoo.util.command_line.flags import key_values

_BOOLEANS: Dict[str, bool] = yaml.constructor.SafeConstructor.bool_values  # true, yes, on, false, no and off
_TEXT, _KEPT = 'tag:yaml.org,2002:str', ('tag:yaml.org,2002:null', 'tag:yaml.org,2002:merge')


class Word(str):
    """A value that stands in a YAML file without quotes. It is shown as it stands there, also inside a list."""

    __repr__ = str.__str__

    def boolean(self) -> Optional[bool]:
        """Return the truth value that the word is in YAML, or None."""
        return _BOOLEANS.get(self.lower())


class UniqueKeyLoader(yaml.SafeLoader):
    """``yaml.SafeLoader`` that refuses a mapping that gives a key twice."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._checked: List[yaml.MappingNode] = []

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # called for every mapping, and again for one that is merged into another: by then it has what it merged itself
        if not any(node is other for other in self._checked):
            self._checked.append(node)
            _refuse_twice(node)
        super().flatten_mapping(node)


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen: Set[Tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f'{key.value} is given twice', problem_mark=key.start_mark)
            seen.add((key.tag, key.value))


class WordLoader(UniqueKeyLoader):
    """A loader that leaves every value without quotes a ``Word``, except null."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}

    def construct_word(self, node: yaml.ScalarNode) -> str:
        text = self.construct_scalar(node)
        return Word(text) if node.style is None else text


WordLoader.add_constructor(_TEXT, WordLoader.construct_word)


def plain_values(value: Any) -> Any:
    """Return ``value`` with every ``Word`` read: a truth value as in YAML, all else as in ``NAME=VALUE``.

    Args:
        value: A word, or lists and mappings of words and of other values, which stay as they are.
    """
    if isinstance(value, dict):
        return {str(key): plain_values(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain_values(v) for v in value]
    if not isinstance(value, Word):
        return value
    return key_values([f'value={value}'])['value'] if value.boolean() is None else value.boolean()


def read_error(error: Exception) -> str:
    """Return in one line what is wrong with a YAML file, with its line where that is known."""
    mark = getattr(error, 'problem_mark', None)
    said = getattr(error, 'problem', None) or next(iter(str(error).splitlines()), type(error).__name__)
    return f'{said} (line {mark.line + 1})' if mark is not None else said
