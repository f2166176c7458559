"""config.json and model.safetensors: timm's writer, and what was trained in the place of what timm would assume."""
import json
from pathlib import Path
from typing import Any, Dict, Optional

from timm.models import save_for_hf
from torch import nn

from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import write_text

DATA_FIELDS = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
# dropout and stochastic depth are of the training, not of the weights
_TRAINING_ARGS = ('drop_rate', 'drop_path_rate', 'drop_block_rate')
# what the architecture's default weights say of themselves: not true of these
_FOREIGN_FIELDS = ('test_input_size', 'test_crop_pct', 'test_pool_size', 'min_input_size', 'label_offset',
                   'label_names', 'label_descriptions', 'tag', 'description', 'origin_url', 'paper_name', 'paper_ids',
                   'notes', 'license')


def write_model(directory: Path, checkpoint: Dict[str, Any], model: nn.Module,
                license: Optional[str]) -> None:
    """Write the two files by which ``timm.create_model('local-dir:...', pretrained=True)`` rebuilds ``model``.

    Args:
        directory: Made if absent.
        checkpoint: Of the run: arch, model_args, data_config, label_names.
        model: With the weights, contiguous and on the CPU. Its ``pretrained_cfg`` is set to what was trained.
        license: Hub id of the license, or None: config.json then names none.

    Raises:
        IEBNZooError: The model's arguments cannot stand in JSON.
    """
    labels, data = checkpoint.get('label_names'), checkpoint['data_config']
    if list(model.pretrained_cfg.get('input_size') or []) != list(data['input_size']):
        model.pretrained_cfg = dict(model.pretrained_cfg, pool_size=None)  # it followed from the image size
    model.pretrained_cfg = dict(model.pretrained_cfg, **{k: data[k] for k in DATA_FIELDS if k in data})
    try:
        save_for_hf(model, str(directory), model_config={'label_names': labels} if labels else None,
                    safe_serialization=True)
        path = directory / 'config.json'
        config = _settled(json.loads(path.read_text(encoding='utf-8')), checkpoint, model, license)
        write_text(path, json.dumps(config, indent=2, allow_nan=False) + '\n')
    except (TypeError, ValueError, AssertionError) as e:
        raise IEBNZooError(
            f"config.json cannot say how to build {checkpoint['arch']} {checkpoint['model_args']}: {e}.\n"
            f'Train with arguments that are plain values.') from e


def _settled(config: Dict[str, Any], checkpoint: Dict[str, Any], model: nn.Module,
             license: Optional[str]) -> Dict[str, Any]:
    # timm's releases differ in what their writer takes from the model; so all that was trained is set here
    cfg = {k: v for k, v in config['pretrained_cfg'].items() if k not in _FOREIGN_FIELDS}
    cfg.update({k: model.pretrained_cfg[k] for k in (*DATA_FIELDS, 'pool_size', 'first_conv', 'classifier')
                if k in model.pretrained_cfg}, num_classes=model.num_classes, custom_load=False,
               **({'license': license} if license else {}))
    # timm's part counts: a transformer's img_size, say, without which its position embedding would be resampled
    args = {**config.get('model_args', {}), **checkpoint['model_args']}
    # num_classes stands at the top, where timm reads it; transformers passes it itself, and would pass it twice
    args = {k: v for k, v in args.items() if k not in (*_TRAINING_ARGS, 'num_classes')}
    return dict(config, architecture=checkpoint['arch'], num_classes=model.num_classes, model_args=args,
                pretrained_cfg=cfg)
