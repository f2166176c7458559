"""config.json and model.safetensors, by timm's writer; the settings of the training replace what timm would assume."""
import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from timm.models import save_for_hf
from torch import nn

from iebn_zoo.hub.card.network_facts import NetworkFacts
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import write_text
from iebn_zoo.weights.settings import cfg_of, set_cfg

DATA_FIELDS = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
# dropout and stochastic depth belong to the training, not to the weights
_TRAINING_ARGS = ('drop_rate', 'drop_path_rate', 'drop_block_rate')
# these fields describe the architecture's default weights, and are false for the trained ones
_FOREIGN_FIELDS = ('test_input_size', 'test_crop_pct', 'test_pool_size', 'min_input_size', 'label_offset',
                   'label_names', 'label_descriptions', 'tag', 'description', 'origin_url', 'paper_name', 'paper_ids',
                   'notes', 'license')


def write_model(directory: Path, model: nn.Module, network: NetworkFacts, license: Optional[str]) -> None:
    """Write the two files by which ``timm.create_model('local-dir:...', pretrained=True)`` rebuilds ``model``.

    Args:
        directory: The directory; it is made if it is absent.
        model: With the weights, contiguous and on the CPU. Its ``pretrained_cfg`` is set to what was trained.
        network: What ``model`` is, and with which input settings and names of classes it was trained.
        license: Hub id of the license, or None: config.json then names none.

    Raises:
        IEBNZooError: The model's arguments cannot stand in JSON.
    """
    labels, data, cfg = network.label_names, network.data_config, cfg_of(model)
    if list(cfg.get('input_size') or []) != list(data['input_size']):
        cfg = {**cfg, 'pool_size': None}  # the old value followed from the old image size
    set_cfg(model, {**cfg, **{k: data[k] for k in DATA_FIELDS if k in data}})
    try:
        save_for_hf(model, str(directory), model_config={'label_names': labels} if labels else None,
                    safe_serialization=True)
        path = directory / 'config.json'
        config = _settled(json.loads(path.read_text(encoding='utf-8')), cfg_of(model), network, license)
        write_text(path, json.dumps(config, indent=2, allow_nan=False) + '\n')
    except (TypeError, ValueError, AssertionError) as e:
        raise IEBNZooError(
            f'config.json cannot say how to build {network.arch} {network.model_args}: {e}.\n'
            f'Train with arguments that are plain values.') from e


def _settled(config: Dict[str, Any], trained: Mapping[str, Any], network: NetworkFacts,
             license: Optional[str]) -> Dict[str, Any]:
    # releases of timm differ in what their writer takes from the model; so everything that was trained is set here
    cfg = {k: v for k, v in config['pretrained_cfg'].items() if k not in _FOREIGN_FIELDS}
    cfg.update({k: trained[k] for k in (*DATA_FIELDS, 'pool_size', 'first_conv', 'classifier') if k in trained},
               num_classes=network.num_classes, custom_load=False, **({'license': license} if license else {}))
    # timm's arguments count: without a transformer's img_size, for example, its position embedding would be resampled
    args = {**config.get('model_args', {}), **network.model_args}
    # timm reads num_classes at the top; transformers passes it too, and would pass it twice if it stood here
    args = {k: v for k, v in args.items() if k not in (*_TRAINING_ARGS, 'num_classes')}
    return dict(config, architecture=network.arch, num_classes=network.num_classes, model_args=args,
                pretrained_cfg=cfg)
