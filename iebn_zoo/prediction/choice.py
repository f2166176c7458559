"""The networks that a stranger may name: those of the zoo with weights, and repositories of the Hub, up to a size."""
import difflib
import re
import threading
from collections import OrderedDict
from typing import Callable, List, Optional, Tuple

import timm
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from iebn_zoo.prediction.predict import Predictor
from iebn_zoo.prediction.source import open_named
from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line
from iebn_zoo.util.hub_token import find_token, harmless, hide
from iebn_zoo.weights.create import HF_HUB, create_model, is_of_zoo
from iebn_zoo.weights.open import Network
from iebn_zoo.weights.repository import CONFIG

MOST_SIDE = 1024  # px of what an image is resized to, before it is cropped to the input of the network
MOST_NUMBERS = 150_000_000  # of a network; iebn_wide_resnet101_2 has 127 million
_BYTES_PER_NUMBER = 4  # in a file of weights, float32
_MOST_CONFIG = 1 << 20  # bytes; 22,000 label names take about half of it
_HUB_NAME = re.compile(r'hf[-_]hub:[\w-][\w.-]*/[\w-][\w.-]*(@[\w-][\w./-]*)?', flags=re.ASCII | re.IGNORECASE)
_HUB_WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


def zoo_names() -> List[str]:
    """Return the names of the zoo that have weights with a classifier, each with its tag, IEBN networks first."""
    found = [name for name in timm.list_pretrained() if is_of_zoo(name) and _classes(name)]
    return sorted(found, key=lambda name: not name.startswith('iebn_'))


def check_choice(text: str) -> str:
    """Return the name of a network that a stranger has written, without spaces around it.

    Nothing of this machine can be named: no path, no directory and no URL.

    Args:
        text: Name of the zoo with weights, or ``hf-hub:OWNER/NAME``, also with ``@REVISION``.

    Raises:
        UsageError: It is another text.
    """
    name = text.strip() if isinstance(text, str) else ''
    shown = repr(name if len(name) <= 80 else f'{name[:77]}...')
    if name.lower().startswith(('hf-hub:', 'hf_hub:')):
        if not _HUB_NAME.fullmatch(name) or '..' in name or len(name) > 200:
            raise UsageError(f'{shown} names no repository of the Hub.\nExpected hf-hub:OWNER/NAME, such as '
                             f'hf-hub:timm/resnet18.a1_in1k.')
        return f'{HF_HUB}:{name.partition(":")[2]}'
    if not re.fullmatch(r'\w+(\.\w+)?', name, flags=re.ASCII) or len(name) > 80:
        raise UsageError(f'{shown} names no network.\nChoose one of the list, or write hf-hub:OWNER/NAME.')
    if timm.is_model(name.split('.')[0]) and not is_of_zoo(name):
        raise UsageError(f'{shown} is no network of this zoo.\n'
                         f'Choose one of the list, or write hf-hub:OWNER/NAME, such as hf-hub:timm/{name}.')
    if not is_of_zoo(name) or not timm.is_model_pretrained(name):
        near = difflib.get_close_matches(name, zoo_names(), n=3, cutoff=0.5)
        raise UsageError(f'there are no weights for {shown}.\n'
                         f"{'Did you mean ' + ' or '.join(near) + '?' if near else 'Choose one of the list.'}")
    return name


def open_choice(text: str, most_numbers: int = MOST_NUMBERS) -> Network:
    """Open a network that a stranger has named; see ``check_choice``. Its file is downloaded only up to a size.

    Args:
        text: The name.
        most_numbers: Number of parameters of the largest network to be opened. The file of weights of a repository has
            at most 4 bytes for each, as in float32; a larger one is not downloaded.

    Raises:
        UsageError: The name is not allowed, or the network or its input is too large.
        IEBNZooError: The weights cannot be used, or the Hub does not have them or does not answer.
    """
    name = check_choice(text)
    if not name.startswith(f'{HF_HUB}:'):
        _check_count(name, _numbers(name), most_numbers)
        return _with_small_input(open_named(name))
    network = open_named(_checked_repository(name, most_numbers))
    # a small file may fill a large network: float16 has 2 bytes per parameter, and see weights.create.check_size
    _check_count(name, sum(p.numel() for p in network.model.parameters()), most_numbers)
    return _with_small_input(network)


class NetworkCache:
    """The networks that were asked for last, ready to predict; the one that was not used for longest is let go.

    Several threads may ask at once: they open one network at a time, and nobody waits for one that is open.

    Args:
        limit: Largest number of networks that are kept.
        open: Opens a network by its name.
    """

    def __init__(self, limit: int = 2, open: Callable[[str], Network] = open_choice) -> None:
        if limit < 1:
            raise UsageError(f'limit is {limit}, expected at least 1.')
        self.limit = limit
        self._open = open
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        self._opening, self._changing = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: str) -> 'Entry':
        """Return a network; open it where it is not there.

        Raises:
            UsageError: See ``open_choice``.
            IEBNZooError: See ``open_choice``.
        """
        entry = self._find(name)
        if entry is not None:
            return entry
        with self._opening:
            entry = self._find(name)  # another thread may have opened it
            if entry is None:
                with self._changing:  # makes room before memory is needed
                    while len(self._kept) >= self.limit:
                        self._kept.popitem(last=False)
                entry = Entry(self._open(name))
                with self._changing:
                    self._kept[name] = entry
        return entry

    def _find(self, name: str) -> Optional['Entry']:
        with self._changing:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)


class Entry:
    """A network of the cache.

    Attributes:
        network: The network.
        predictor: Asks it about images.
        lock: Whoever runs the network holds it: the gates are watched by hooks, which see every image that runs.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.predictor = Predictor(network)
        self.lock = threading.Lock()


def _classes(name: str) -> int:
    cfg = timm.get_pretrained_cfg(name)
    return 0 if cfg is None else cfg.num_classes


def _numbers(name: str) -> int:
    with torch.device('meta'):  # counted, not made
        model = create_model(name.split('.')[0], num_classes=_classes(name))
    return sum(p.numel() for p in model.parameters())


def _check_count(name: str, numbers: int, most: int) -> None:
    if numbers > most:
        raise UsageError(f'{name} has {numbers / 1e6:.0f} million parameters, expected at most {most / 1e6:.0f} '
                         f'million.\nChoose a smaller network.')


def _with_small_input(network: Network) -> Network:
    # a few bytes of a config.json can ask for an input, or for images before the crop, that no memory holds
    side = max(network.data_config['input_size'][1:]) / network.data_config['crop_pct']
    if not side <= MOST_SIDE:
        raise UsageError(f'{network.shown} wants images of {side:,.0f} px, expected at most {MOST_SIDE}.\n'
                         f'Choose another network.')
    return network


def _checked_repository(name: str, most_numbers: int) -> str:
    """Return the name of a repository at the commit whose files were found to be small enough."""
    if constants.HF_HUB_OFFLINE:  # nothing is downloaded
        return name
    hub_id, _, revision = name.partition(':')[2].partition('@')
    commit, size = _metadata(name, hub_id, CONFIG, revision or None)
    if commit is None:
        raise IEBNZooError(f'{name} has no {CONFIG}.\nExpected a repository that export and push made, or one of timm.')
    if size > _MOST_CONFIG:
        raise UsageError(f'the {CONFIG} of {name} has {size:,} bytes, expected at most {_MOST_CONFIG:,}.\n'
                         f'Choose another network.')
    for file in _HUB_WEIGHTS:  # in the order in which weights.repository looks for them
        found, size = _metadata(name, hub_id, file, commit)
        if found is not None:
            most = _BYTES_PER_NUMBER * most_numbers
            if size > most:
                raise UsageError(f'the {file} of {name} has {size:,} bytes, expected at most {most:,}.\n'
                                 f'Choose a smaller network.')
            break
    return f'{HF_HUB}:{hub_id}@{commit}'


def _metadata(name: str, hub_id: str, file: str, revision: Optional[str]) -> Tuple[Optional[str], int]:
    find_token()  # one that no header takes would stand in the message of the client
    try:
        found = get_hf_file_metadata(hf_hub_url(hub_id, file, revision=revision), timeout=20)
    except EntryNotFoundError:
        return None, 0
    except HFValidationError as e:
        raise UsageError(f'{name!r} names no repository: {first_line(e)}\nExpected hf-hub:OWNER/NAME.') from e
    except Exception as e:  # the Hub, the client and its HTTP library each have types of their own
        raise IEBNZooError(
            f'cannot load {name}: {hide(first_line(e))}\nCheck the name and the network.') from harmless(e)
    if found.commit_hash is None or found.size is None:
        raise IEBNZooError(f'cannot load {name}: the Hub does not tell the size of {file}.\nChoose another network.')
    return found.commit_hash, found.size
