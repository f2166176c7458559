"""A network in a directory or a repository of the Hub; its config.json is checked before anything is built from it."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line
from iebn_zoo.util.hub_token import find_token, harmless, hide
from iebn_zoo.weights.arguments import check_arguments
from iebn_zoo.weights.config_check import check_config
from iebn_zoo.weights.create import HF_HUB, LOCAL_DIR, build, check_name, check_size, split_name
from iebn_zoo.weights.file import WeightsFile, read_weights_file
from iebn_zoo.weights.settings import cfg_of, set_cfg

CONFIG = 'config.json'
# in the order in which timm looks for them
_WEIGHTS = ('model.safetensors', 'pytorch_model.bin', 'pytorch_model.pth', 'model.pth')
_SUFFIXES = ('.safetensors', '.pth', '.pth.tar', '.bin')
_NO_WEIGHTS = frozenset(('golden.safetensors',))


@dataclass(frozen=True)
class Repository:
    """A directory, or a repository of the Hub at one commit, with a checked config.json.

    Attributes:
        name: The name that the user wrote.
        folder: Directory of its files, or of their download.
        config: Content of config.json.
        hub_id: OWNER/NAME on the Hub, or None for a directory.
        commit: Commit on the Hub, or None for a directory.
    """

    name: str
    folder: Path
    config: Dict[str, Any]
    hub_id: Optional[str] = None
    commit: Optional[str] = None

    @property
    def arguments(self) -> Dict[str, Any]:
        """Arguments of the architecture in config.json."""
        return dict(self.config.get('model_args') or {})

    @property
    def channels(self) -> int:
        """Image channels of the network, by config.json."""
        return int(self.arguments.get('in_chans') or self.config['pretrained_cfg']['input_size'][0])

    def check_size(self, state_dict: Mapping[str, Tensor], arguments: Mapping[str, Any], shown: str) -> None:
        """Check that config.json asks for no network that is far larger than the weights.

        Args:
            state_dict: The weights; tensors on the meta device will do.
            arguments: Further arguments of the architecture, over those in config.json.
            shown: The name of the repository in the message.

        Raises:
            IEBNZooError: It does.
        """
        own = {**self.arguments, 'num_classes': self.config['num_classes'], 'in_chans': self.channels}
        check_size(self.config['architecture'], {**own, **arguments}, state_dict, shown)

    def weights(self) -> WeightsFile:
        """Read the weights; download them if they are on the Hub.

        Raises:
            IEBNZooError: There are no weights, or they are damaged.
        """
        return read_weights_file(self._downloaded() if self.hub_id else self._found())

    def file(self, name: str) -> Optional[Path]:
        """Return the path of another of its files, downloaded if it is on the Hub, or None where it has none.

        Raises:
            IEBNZooError: The Hub does not answer.
        """
        if self.hub_id:
            return _download(self.name, self.hub_id, name, self.commit)
        return self.folder / name if (self.folder / name).is_file() else None

    def _found(self) -> Path:
        for name in _WEIGHTS:
            if (self.folder / name).is_file():
                return self.folder / name
        for suffix in _SUFFIXES:
            others: List[Path] = [path for path in sorted(self.folder.glob(f'*{suffix}'))
                                  if path.name not in _NO_WEIGHTS and path.is_file()]
            if len(others) > 1:
                raise IEBNZooError(f'{self.folder} holds {others[0].name} and {others[1].name}.\n'
                                   f'Expected one file of weights, such as {_WEIGHTS[0]}.')
            if others:
                return others[0]
        raise IEBNZooError(f'{self.folder} holds no weights.\nExpected {_WEIGHTS[0]}, as export writes it.')

    def _downloaded(self) -> Path:
        for name in _WEIGHTS[:2]:
            path = _download(self.name, str(self.hub_id), name, self.commit)
            if path is not None:
                return path
        raise IEBNZooError(f'{self.name} holds no weights.\nExpected {_WEIGHTS[0]}, as export writes it.')


def find_repository(name: str, headless: bool = False) -> Repository:
    """Find what a ``local-dir:`` or ``hf-hub:`` name means, and check its config.json.

    Args:
        name: ``local-dir:DIR``, ``hf-hub:OWNER/NAME`` or ``hf-hub:OWNER/NAME@REVISION``.
        headless: Accept a network without a classifier too.

    Raises:
        UsageError: There is no such directory, or the name is impossible.
        IEBNZooError: The Hub does not have it or does not answer, or config.json is wrong.
    """
    source, place = split_name(name)
    if source == LOCAL_DIR:
        path = Path(place) / CONFIG
        if not path.is_file():
            raise UsageError(f'no {CONFIG} in {place}.\nExpected a directory made by export.')
        return Repository(name, path.parent, check_config(path, headless))
    assert source == HF_HUB
    hub_id, _, revision = place.partition('@')
    found = _download(name, hub_id, CONFIG, revision or None)
    if found is None:
        raise IEBNZooError(f'{name} has no {CONFIG}.\nExpected a repository that export and push made, or one of timm.')
    # the Hub may serve another commit a moment later, so the weights are downloaded from this one
    return Repository(name, found.parent, check_config(found, headless), hub_id, found.parent.name)


def input_channels(name: str) -> int:
    """Return the number of image channels of the network that a name means where no argument sets another.

    Args:
        name: Registered name, ``local-dir:DIR`` or ``hf-hub:ID``.

    Raises:
        UsageError: There is no such model.
        IEBNZooError: The Hub does not have it or does not answer, or config.json is wrong.
    """
    if split_name(name)[0]:
        return find_repository(name, headless=True).channels
    check_name(name)
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm does not have the tag, as creating the network will say
        cfg = None
    return int(cfg.input_size[0]) if cfg is not None else 3


def create_from_repository(
        name: str,
        pretrained: bool,
        arguments: Mapping[str, Any],
        repository: Optional[Repository] = None,
        weights: Optional[WeightsFile] = None,
) -> nn.Module:
    """Create the network of a directory or a repository of the Hub.

    Args:
        name: As in ``find_repository``.
        pretrained: Load the weights, strictly. Where ``arguments`` set another number of classes or input channels,
            timm makes a new classifier, and adapts the first convolution.
        arguments: Arguments of the architecture, over those in config.json; None counts as not given.
        repository: What ``find_repository`` found, if it was called before.
        weights: What ``Repository.weights`` read, if it was called before.

    Raises:
        UsageError: There is no such directory, or the network does not take the arguments.
        IEBNZooError: The Hub does not have it, config.json or the weights are wrong, or do not belong together.
    """
    arguments = {k: v for k, v in arguments.items() if v is not None}
    repository = repository or find_repository(name, headless='num_classes' in arguments or not pretrained)
    config = repository.config
    check_arguments(config['architecture'], arguments, f'the arguments of {name}', own=True)
    timm_name = f'{LOCAL_DIR}:{repository.folder}'
    if not pretrained:
        return _settled(build(timm_name, name, False, dict(arguments)), repository)
    state = (weights or repository.weights()).state_dict
    overlay = dict(state_dict=state, source='')
    repository.check_size(state, arguments, name)
    own = {'num_classes': config['num_classes'], 'in_chans': repository.channels}
    adapted = [key for key in ('num_classes', 'in_chans') if arguments.get(key, own[key]) != own[key]]
    if adapted:  # timm is not strict then, and would skip weights of another network in silence
        build(timm_name, name, True, {**{k: v for k, v in arguments.items() if k not in adapted},
                                      'pretrained_cfg_overlay': overlay})
    return _settled(build(timm_name, name, True, {**arguments, 'pretrained_cfg_overlay': overlay}), repository)


def _settled(model: nn.Module, repository: Repository) -> nn.Module:
    # timm leaves the place of the weights here, but not a second copy of the weights
    place = dict(source=HF_HUB, hf_hub_id=repository.name.partition(':')[2]) if repository.hub_id else dict(
        source=LOCAL_DIR, file=str(repository.folder))
    cfg = {k: v for k, v in cfg_of(model).items() if k not in ('state_dict', 'file', 'source')}
    # a config.json may name the architecture here too, and with a tag; nothing after this one asks for a tag
    arch = repository.config['architecture'].partition('.')[0]
    set_cfg(model, {**cfg, **place, 'architecture': arch})
    return model


def _download(name: str, hub_id: str, file: str, revision: Optional[str]) -> Optional[Path]:
    find_token()  # one that no header takes would stand in the message of the client
    try:
        return Path(hf_hub_download(hub_id, file, revision=revision))
    except HFValidationError as e:
        raise UsageError(f'{name!r} names no repository: {first_line(e)}\nExpected hf-hub:OWNER/NAME.') from e
    except LocalEntryNotFoundError as e:  # the client is offline, or the Hub does not answer
        raise IEBNZooError(f'cannot load {name}: {hide(first_line(e))}\n'
                           f'Check the name, the network, and HF_HUB_OFFLINE.') from harmless(e)
    except EntryNotFoundError:
        return None
    except Exception as e:  # the Hub, the client and its HTTP library each have types of their own
        raise IEBNZooError(
            f'cannot load {name}: {hide(first_line(e))}\nCheck the name, the login and the network.') from harmless(e)
