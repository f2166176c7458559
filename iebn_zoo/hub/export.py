"""A run becomes a directory that is a Hub repository, proved by loading it back in a fresh process."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from torch import nn

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.files import write_text
from iebn_zoo.hub.card import make_card
from iebn_zoo.hub.facts import gather
from iebn_zoo.hub.golden import GOLDEN
from iebn_zoo.training.state import BEST, LAST, load_checkpoint, load_weights

_CHECK = ('import sys, iebn_zoo\n'
          'from iebn_zoo.cli import run\n'
          'from iebn_zoo.hub.check import check_directory\n'
          'sys.exit(run(lambda argv: print(check_directory(argv[0]).difference) or 0, sys.argv[1:]))')
# what rebuilds the network; dropout and stochastic depth are of the training, not of the weights
_TRAINING_ARGS = ('drop_rate', 'drop_path_rate', 'drop_block_rate')


def export(
        run: Union[str, Path],
        output: Union[str, Path],
        *,
        ema: bool = False,
        best: bool = False,
        overwrite: bool = False,
        license: str = 'apache-2.0',
        repo_id: Optional[str] = None,
        dataset_id: Optional[str] = None,
) -> Tuple[Path, float]:
    """Write ``output``: model.safetensors, config.json, README.md, golden.safetensors, curves.png, summary.csv.

    Args:
        run: Run directory, or a checkpoint file in one.
        output: Directory to make. It appears whole or not at all.
        ema: Take the EMA weights.
        best: Take the best epoch, not the last.
        overwrite: Replace an existing ``output`` that an export made.
        license: Hub id of the license.
        repo_id: OWNER/NAME for the card's snippets.
        dataset_id: Hub id of the data.

    Returns:
        ``output`` and the largest difference of the reloaded logits.

    Raises:
        UsageError: No such run, no EMA weights, ``output`` exists.
        IEBNZooError: Damaged or non-finite weights, or the reload differs.
    """
    run, output = Path(run), Path(output)
    if output.exists() and not (overwrite and (output / GOLDEN).is_file()):
        raise UsageError(
            f'{output} exists.\nGive another --output, or replace an earlier export with --overwrite.')
    path = run / (BEST if best else LAST) if run.is_dir() else run
    checkpoint = load_checkpoint(path)
    run = path.parent
    model = _model(checkpoint, path, ema)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f'.{output.name}.') as temp:
            made = Path(temp) / 'made'
            _write(made, run, checkpoint, model, ema, license, repo_id, dataset_id)
            difference = _reload(made)
            _swap(made, output, Path(temp) / 'old')
    except OSError as e:
        raise IEBNZooError(f'cannot write {output}: {e.strerror or e}.\nGive --output a writable place.') from e
    return output, difference


def _model(checkpoint: Dict[str, Any], path: Path, ema: bool) -> nn.Module:
    key = 'state_dict_ema' if ema else 'state_dict'
    if key not in checkpoint:
        raise UsageError(f'{path} has no EMA weights.\nTrain with --model-ema, or leave out --ema.')
    if checkpoint['epoch'] < 0:
        raise UsageError(f'{path} is from before the first epoch.\nTrain at least one epoch.')
    state = {k: v.detach().to('cpu', torch.float32 if v.is_floating_point() else v.dtype).contiguous()
             for k, v in checkpoint[key].items()}
    bad = next((k for k, v in state.items() if not torch.isfinite(v).all()), None)
    if bad is not None:
        raise IEBNZooError(f'{path}: {bad} has NaN or infinite values.\nExport an earlier epoch, such as --best.')
    try:
        model = timm.create_model(checkpoint['arch'], **checkpoint['model_args'])
    except Exception as e:
        raise IEBNZooError(f"cannot create {checkpoint['arch']}: {str(e).splitlines()[0]}.\nUse the versions that "
                           f'trained it.') from e
    load_weights(model, state, str(path))
    labels = checkpoint.get('label_names')
    if labels and len(labels) != model.num_classes:
        raise IEBNZooError(f'{path} has {len(labels)} label names for {model.num_classes} classes.\nTrain again.')
    return model.eval()


def _write(made: Path, run: Path, checkpoint: Dict[str, Any], model: nn.Module, ema: bool, license: str,
           repo_id: Optional[str], dataset_id: Optional[str]) -> None:
    labels = checkpoint.get('label_names')
    save_for_hf(model, str(made), model_config={'label_names': labels} if labels else None, safe_serialization=True)
    _settle_config(made / 'config.json', checkpoint, model, license)
    # any fixed input will do: noise of the scale of a normalized image
    inputs = torch.randn(2, *checkpoint['data_config']['input_size'], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(inputs)
    safetensors.torch.save_file({'input': inputs, 'logits': logits.clone()}, made / GOLDEN, {'format': 'pt'})
    for name in ('curves.png', 'summary.csv'):
        if (run / name).is_file():
            shutil.copyfile(run / name, made / name)
    if not (made / 'curves.png').is_file():  # an interrupted run has none yet
        from iebn_zoo.training.log import plot_curves
        if checkpoint.get('rows'):
            plot_curves(made, checkpoint['rows'])
    facts = gather(run, checkpoint, model, ema, dataset_id)
    write_text(made / 'README.md', make_card(facts, license, repo_id))


def _settle_config(path: Path, checkpoint: Dict[str, Any], model: nn.Module, license: str) -> None:
    # timm's writer differs between releases in what it takes from the model; what was trained is set here, all of it
    config = json.loads(path.read_text(encoding='utf-8'))
    args = {k: v for k, v in checkpoint['model_args'].items() if k not in _TRAINING_ARGS}
    cfg = config['pretrained_cfg']
    for key in ('test_input_size', 'test_crop_pct', 'min_input_size', 'label_offset', 'tag', 'origin_url', 'paper_ids'):
        cfg.pop(key, None)
    cfg.update(checkpoint['data_config'], num_classes=model.num_classes,
               custom_load=False, license=license)
    cfg.setdefault('first_conv', model.pretrained_cfg.get('first_conv'))
    cfg.setdefault('classifier', model.pretrained_cfg.get('classifier'))
    config.update(architecture=checkpoint['arch'], num_classes=model.num_classes, model_args=args)
    try:
        write_text(path, json.dumps(config, indent=2, allow_nan=False) + '\n')
    except (TypeError, ValueError) as e:
        raise IEBNZooError(f'the model arguments are no JSON values: {e}.\nTrain with plain arguments.') from e


def _reload(made: Path) -> float:
    environment = dict(os.environ, HF_HUB_OFFLINE='1')
    done = subprocess.run([sys.executable, '-c', _CHECK, str(made)], capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith('error: ')), lines[-1] if lines else 'no message')
        raise IEBNZooError(
            f"the exported directory does not load back: {reason.removeprefix('error: ').replace(str(made), 'it')}\n"
            f'Nothing was written.')
    return float(done.stdout.split()[-1])


def _swap(made: Path, output: Path, old: Path) -> None:
    if output.exists():
        os.rename(output, old)
    try:
        os.rename(made, output)
    except OSError:
        if old.exists():
            os.rename(old, output)
        raise
