"""Places on this machine, which cards and logs that others read must not tell."""
import re
from pathlib import Path
from typing import Any, Union

# what --dataset may be besides a place on somebody's machine
NAMED_DATASET = re.compile(r'torch/\w+|hfds/\w[\w.-]*(/\w[\w.-]*)?')
# flags that name a dataset, or else a place on somebody's machine
DATASETS = ('dataset', 'mix_dataset_name')
# values that hold a slash and are no paths
_NAMES = re.compile(NAMED_DATASET.pattern + r'|hf-hub:[\w.-]+/[\w.-]+(@[\w./-]+)?')


def canonical_name(name: str) -> str:
    """Return the name of a model with its prefix, ``local-dir:`` or ``hf-hub:``, in the spelling that is compared."""
    prefix, colon, place = name.partition(':')
    spelled = prefix.lower().replace('hf_hub', 'hf-hub')  # an older spelling of timm's
    return f'{spelled}{colon}{place}' if spelled in ('local-dir', 'hf-hub') else name


def local_name(value: str) -> str:
    """Return the last part of a path, and anything else as it is, such as the name of a model or dataset."""
    value = canonical_name(value)
    scheme = 'local-dir:' if value.startswith('local-dir:') else ''
    if _NAMES.fullmatch(value):
        return value
    return scheme + re.split(r'[\\/]', value[len(scheme):].rstrip('\\/'))[-1]


def shown_name(place: Union[str, Path]) -> str:
    """Return a name, or the last part of a path, so that messages do not tell places on this machine."""
    text = canonical_name(str(place))
    if isinstance(place, Path) or text.startswith('local-dir:') or Path(text).is_file():
        prefix = 'local-dir:' if text.startswith('local-dir:') else ''
        return prefix + Path(text.removeprefix(prefix)).name
    return text


def dataset_name(value: str) -> str:
    """Return the name of a dataset that is known to all, and a word for any other: it may be a place, or private."""
    return value if NAMED_DATASET.fullmatch(value) else 'DATASET'


def without_places(value: Any) -> Any:
    """Return a plain value in which every text is its ``local_name``; lists and dicts are copied with their texts."""
    if isinstance(value, dict):
        return {without_places(k): without_places(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(v) for v in value]
    return local_name(value) if isinstance(value, str) else value
