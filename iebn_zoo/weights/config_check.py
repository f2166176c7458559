"""Checks a Hub config.json for the mistakes that timm does not report.

timm fills whatever is missing with ImageNet's values (224 px, ImageNet mean and std, bicubic, crop 0.875) and, where
two fields disagree about the number of classes, keeps a random head. So every field it reads must be there and agree.
"""
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, NoReturn, TypeGuard, Union

import timm
from timm.models import PretrainedCfg

from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.arguments import check_arguments
from iebn_zoo.weights.config import check_places, read_config
from iebn_zoo.weights.settings import INTERPOLATIONS, MAX_NUMBER, MAX_SIZE

_CFG_FIELDS = frozenset((*(field.name for field in fields(PretrainedCfg)), 'labels'))


def check_config(path: Union[str, Path], headless: bool = False) -> Dict[str, Any]:
    """Read and check config.json.

    Args:
        path: The file, in the layout timm's ``save_for_hf`` writes.
        headless: Accept a network without a classifier (num_classes 0) too; it will get one.

    Returns:
        The parsed configuration.

    Raises:
        IEBNZooError: It is no JSON, or a field is missing, is wrong or sets more than the architecture and its input;
            the message names the field.
    """
    path = Path(path)
    config = read_config(path)
    check = _Check(path)
    check_places(path, config)
    _check_model(check, config, 0 if headless else 1)
    check_arguments(config['architecture'], config.get('model_args') or {}, f'{path}: model_args')
    _check_cfg(check, config)
    _check_data(check, config)
    return config


class _Check:
    def __init__(self, path: Path):
        self.path = path

    def fail(self, field: str, value: Any, expected: str) -> NoReturn:
        shown = 'missing' if value is None else repr(value)
        raise IEBNZooError(
            f'{self.path}: {field} is {shown if len(shown) <= 80 else shown[:77] + "..."}.\n'
            f'Expected {expected}. Export the run again, or correct the field.'
        )


def _check_model(check: _Check, config: Dict[str, Any], least: int) -> None:
    architecture = config.get('architecture')
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        check.fail('architecture', architecture, 'a model name that timm knows once iebn_zoo is imported')
    classes = config.get('num_classes')
    if not _is_int(classes) or classes < least:
        check.fail('num_classes', classes, f'the number of classes, {least} or more')
    for section in ('pretrained_cfg', 'model_args'):
        values = config.get(section)
        if values is None and section == 'model_args':
            continue
        if not isinstance(values, dict):
            check.fail(section, values, "an object, as timm's save_for_hf writes it")
        if 'num_classes' in values and values['num_classes'] != classes:
            check.fail(f'{section}.num_classes', values['num_classes'], f'{classes}, as num_classes at the top says')
    for field, labels in (('label_names', config.get('label_names')),
                          ('pretrained_cfg.label_names', config['pretrained_cfg'].get('label_names'))):
        if labels is None:
            continue
        if not isinstance(labels, (list, dict)):
            check.fail(field, labels, 'a list of names in class order')
        if len(labels) != classes:
            check.fail(field, f'{len(labels)} names', f'{classes}, one per class (num_classes)')
        values = labels.values() if isinstance(labels, dict) else labels
        wrong = next((name for name in values if not isinstance(name, str)), None)
        if wrong is not None:
            check.fail(field, wrong, 'only strings')


def _check_cfg(check: _Check, config: Dict[str, Any]) -> None:
    # wrong values here would give a traceback in timm, or a layer that keeps its random start
    cfg = config['pretrained_cfg']
    unknown = next((field for field in cfg if field not in _CFG_FIELDS), None)
    if unknown is not None:
        check.fail(f'pretrained_cfg.{unknown[:80]}', cfg[unknown], 'only fields that timm knows')
    # timm builds the one at the top and records this one, by which everything after a training would build again
    top = config['architecture'].partition('.')[0]
    own = cfg.get('architecture')
    if own is not None and own not in (top, config['architecture']):
        check.fail('pretrained_cfg.architecture', own, f'{top}, as architecture at the top says')
    for field in ('first_conv', 'classifier'):
        names = cfg.get(field)
        if names is not None and not all(isinstance(name, str) for name in (
                names if isinstance(names, list) else [names])):
            check.fail(f'pretrained_cfg.{field}', names, 'the name of a layer, or a list of them')
    if not isinstance(cfg.get('fixed_input_size', False), bool):
        check.fail('pretrained_cfg.fixed_input_size', cfg['fixed_input_size'], 'true or false')
    offset = cfg.get('label_offset')
    if offset is not None and (not _is_int(offset) or offset not in (0, 1)):
        check.fail('pretrained_cfg.label_offset', offset, '0, or 1 of weights with a background class')
    top, own = config.get('label_names'), cfg.get('label_names')
    if top is not None and own is not None and top != own:
        check.fail('pretrained_cfg.label_names', own, 'the label_names at the top')


def _check_data(check: _Check, config: Dict[str, Any]) -> None:
    data = config['pretrained_cfg']
    size = data.get('input_size')
    if not isinstance(size, list) or len(size) != 3 or not all(_is_int(n) and 0 < n <= MAX_SIZE for n in size):
        check.fail('pretrained_cfg.input_size', size, f'[channels, height, width] of at most {MAX_SIZE} each')
    channels = (config.get('model_args') or {}).get('in_chans')
    if channels is not None and channels != size[0]:
        check.fail('model_args.in_chans', channels, f'{size[0]}, as pretrained_cfg.input_size says')
    for field in ('mean', 'std'):
        values = data.get(field)
        if not isinstance(values, list) or len(values) != size[0] or not all(_is_number(v) for v in values):
            check.fail(f'pretrained_cfg.{field}', values, f'{size[0]} numbers, one per channel')
        if field == 'std' and min(values) <= 0:
            check.fail('pretrained_cfg.std', values, 'positive numbers')
    if data.get('interpolation') not in INTERPOLATIONS:
        check.fail('pretrained_cfg.interpolation', data.get('interpolation'), f'one of {", ".join(INTERPOLATIONS)}')
    crop = data.get('crop_pct')
    if not _is_number(crop) or not 0 < crop <= 2:
        check.fail('pretrained_cfg.crop_pct', crop, 'the part of the image that is kept, such as 1.0')


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
