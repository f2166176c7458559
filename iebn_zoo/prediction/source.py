"""The network that a user means by one word: a run, an export, a file of weights, the Hub, or a registered name."""
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Union

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

from iebn_zoo.training.run.checkpoint import BEST, LAST
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.ranking import key_of
from iebn_zoo.weights.create import LOCAL_DIR
from iebn_zoo.weights.open import Network, open_network
from iebn_zoo.weights.repository import CONFIG
from iebn_zoo.weights.settings import cfg_of


def open_source(source: Union[str, Path], best: bool = False, use_ema: bool = False) -> Network:
    """Open a network with its weights.

    Args:
        source: Directory of a training run or of an export, file of weights, ``local-dir:DIR``, ``hf-hub:ID``, or
            registered name with weights. A path comes before a name.
        best: Take the best epoch of a run, with the weights by which it was ranked, instead of the last.
        use_ema: Take the EMA weights of a run or of a checkpoint.

    Raises:
        UsageError: It names nothing with weights.
        IEBNZooError: The weights cannot be used.
    """
    text, path = str(source), Path(source)
    if path.is_dir() and (path / CONFIG).is_file():
        text = f'{LOCAL_DIR}:{path}'
    elif path.is_dir():
        checkpoint = path / (BEST if best else LAST)
        if not checkpoint.is_file():
            raise UsageError(f'{path} holds neither an export ({CONFIG}) nor a run ({checkpoint.name}).\n'
                             f'Give the directory of a run or an export, a file of weights, local-dir:DIR, hf-hub:ID, '
                             f'or a name such as iebn_resnet50.bn_a1_in1k.')
        network = open_network(checkpoint=checkpoint, use_ema=use_ema)
        if best and not use_ema and key_of(network.checkpoint) == 'state_dict_ema':
            network = open_network(checkpoint=checkpoint, use_ema=True)
        return network
    elif path.is_file():
        return open_network(checkpoint=path, use_ema=use_ema)
    if best or use_ema:
        raise UsageError(f'{source} is no training run: it has one set of weights.\n'
                         f"Leave out {'--best' if best else '--use-ema'}.")
    return open_named(text)


def open_named(name: str) -> Network:
    """Open a network with its weights by a name that is no path, with ImageNet's names of the classes where they apply.

    Args:
        name: Registered name with weights, ``local-dir:DIR`` or ``hf-hub:ID``.

    Raises:
        UsageError: It names nothing with weights.
        IEBNZooError: The weights cannot be used.
    """
    network = open_network(name)
    if ':' in name or network.label_names:
        return network
    return replace(network, label_names=imagenet_names(network.model))


def imagenet_names(model: nn.Module) -> Optional[List[str]]:
    """Return ImageNet's descriptions of the classes if the tag of timm's weights says that they are of ImageNet.

    Call it only for a network that has just been made by its registered name with its weights: ``pretrained_cfg`` says
    the same of other weights in it, such as those of a fine-tuning on 1000 other classes.

    Args:
        model: Network with timm's ``pretrained_cfg``.
    """
    cfg, subset = cfg_of(model), infer_imagenet_subset(model)
    if subset is None or not any(part in str(cfg.get('tag') or '') for part in ('in1k', 'in12k', 'in21k', 'in22k')):
        return None
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]
