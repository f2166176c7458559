"""Adds a run or a conversion to hub_cards as a folder ARCHITECTURE.TAG."""
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import yaml

from iebn_zoo.hub.card.run_facts import dataset_of, planned_epochs, read_args
from iebn_zoo.hub.card.seeds import RUNS, arguments_of, holds_run, read_arms
from iebn_zoo.hub.card.settings import public_args
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.package.directory import swap
from iebn_zoo.hub.package.evaluation import EvaluationImages
from iebn_zoo.hub.package.export import export
from iebn_zoo.hub.package.proof import CONFIG, CONVERSION_REPORT, FILES, FOLD_REPORT
from iebn_zoo.hub.published.folder import FACTS, read_folder, write_card
from iebn_zoo.training.run.checkpoint import BEST, LAST
from iebn_zoo.training.run.origin import start_of
from iebn_zoo.training.run.records import ARGS, ENVIRONMENT, TIMING
from iebn_zoo.util.csv_files import read_csv
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.ranking import EMA, WEIGHTS_NAMES, key_of, ranked_value, ranked_weights
from iebn_zoo.weights.config import license_id, read_config
from iebn_zoo.weights.open import Network, open_network

_KEPT = ('iebn_zoo', 'timm', 'torch', 'python', 'cpu', 'cpu_count', 'threads', 'gpu', 'device', 'num_processes',
         'commit')
_WRITTEN = frozenset((*FILES, FACTS, ARGS, ENVIRONMENT, TIMING, RUNS))
_READABLE = ('.md', '.json', '.yaml', '.csv', '.png')  # what is left of an example: no weights of any format


def add(
        hub_cards: Path,
        source: Path,
        tag: str,
        *,
        example: bool = False,
        runs: Optional[Path] = None,
        best: bool = False,
        ema: Optional[bool] = None,
        overwrite: bool = False,
        license: Optional[str] = None,
        dataset_id: Optional[str] = None,
        images: Optional[EvaluationImages] = None,
) -> Path:
    """Add a folder; it appears whole or not at all.

    Args:
        hub_cards: The directory of the folders.
        source: A run directory, or a directory that ``iebn-zoo convert`` wrote.
        tag: What follows the name of the architecture, such as ``'cifar100_30ep'``.
        example: Leave the weights out.
        runs: runs.csv of the comparison that the run belongs to.
        best: See ``export``.
        ema: See ``export``.
        overwrite: Replace a folder of this name; what somebody added to it by hand stays.
        license: See ``export``; of a run only, and so are best, ema and runs.
        dataset_id: See ``export``.
        images: See ``export``; of a run only.

    Returns:
        The folder.

    Raises:
        UsageError: ``tag`` is no tag, the folder exists, or ``source`` is neither of both.
        IEBNZooError: A file is damaged, or the export fails.
    """
    if not re.fullmatch(r'[A-Za-z0-9_]+', tag):
        raise UsageError(f'--tag is {tag!r}.\nExpected letters, digits and _, such as cifar100_30ep.')
    if not hub_cards.is_dir():
        raise UsageError(f'{hub_cards} is no directory.\nGive the directory hub_cards of a checkout.')
    converted = any((source / name).is_file() for name in (CONVERSION_REPORT, FOLD_REPORT))
    if converted:
        _refuse_of_conversion(license=license, best=best, use_ema=ema, runs=runs, data_dir=images)
    network = None if converted else _network(source, best)
    target = hub_cards / f'{network.arch if network else read_config(source / CONFIG)["architecture"]}.{tag}'
    if target.exists() and not overwrite:
        raise UsageError(f'{target} exists.\nGive another --tag, or replace it with --overwrite.')
    with tempfile.TemporaryDirectory(dir=hub_cards, prefix='.adding-') as temp:
        made = Path(temp) / target.name  # the card says the name
        if network is None:
            made.mkdir()
            for file in check_directory(source).files:  # what convert wrote, and nothing that somebody added
                shutil.copyfile(source / file.path, made / file.path)
            facts = dict(license=_license(made), dataset=_dataset_of(made, dataset_id))
        else:
            facts = _export(source, network, made, best, ema, license, dataset_id, images)
        if runs is not None:
            assert network is not None  # see _refuse_of_conversion
            _check_runs(runs, read_args(source, network.checkpoint), made)
            shutil.copyfile(runs, made / RUNS)
        write_text(made / FACTS, json.dumps(facts, indent=2, allow_nan=False) + '\n')
        if example:
            for path in sorted(made.iterdir()):
                if path.suffix not in _READABLE:
                    path.unlink()
        for path in sorted(target.iterdir()) if target.is_dir() else ():
            if path.name not in _WRITTEN:
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, made / path.name)
        write_card(read_folder(made))
        swap(made, target, Path(temp) / 'old')
    return target


def _network(source: Path, best: bool) -> Network:
    path = source / (BEST if best else LAST)
    if not path.is_file():
        raise UsageError(f'{source} is no run directory: it has no {path.name}.\n'
                         f'Expected what iebn-zoo train or iebn-zoo convert wrote.')
    return open_network(checkpoint=path)


def _export(source: Path, network: Network, made: Path, best: bool, ema: Optional[bool], license: Optional[str],
            dataset_id: Optional[str], images: Optional[EvaluationImages]) -> Dict[str, Any]:
    path, checkpoint = source / (BEST if best else LAST), network.checkpoint
    if ema is None:
        ema = best and key_of(checkpoint) == 'state_dict_ema'
    export(path, made, ema=ema, license=license, dataset_id=dataset_id, images=images)
    args = read_args(source, checkpoint)
    write_text(made / ARGS, yaml.safe_dump(public_args(args), sort_keys=False, allow_unicode=True))
    if (source / ENVIRONMENT).is_file():
        environment = json.loads((source / ENVIRONMENT).read_text(encoding='utf-8'))
        kept = {name: environment[name] for name in _KEPT if name in environment}
        write_text(made / ENVIRONMENT, json.dumps(kept, indent=2) + '\n')
    if (source / TIMING).is_file():
        shutil.copyfile(source / TIMING, made / TIMING)
    found = dict(epoch=checkpoint['epoch'], ema=ema, num_eval_images=checkpoint.get('num_eval_images'),
                 start=start_of(checkpoint, args), license=_license(made), dataset_id=dataset_id)
    earlier = [{**recipe, 'args': public_args(recipe['args'])} for recipe in checkpoint.get('earlier_recipes', [])]
    planned = planned_epochs(source, args)
    return {**found, **({'earlier_recipes': earlier} if earlier else {}),
            **({'planned_epochs': planned} if planned != args.get('epochs') else {})}


def _refuse_of_conversion(**given: Any) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(f"--{name.replace('_', '-')} is for the folder of a run, and this is a conversion.\n"
                             f'Leave it out; iebn-zoo convert has a --license of its own.')


def _check_runs(runs: Path, args: Mapping[str, Any], made: Path) -> None:
    if not read_arms(runs):
        raise UsageError(f'--runs {runs} holds no complete run.\nGive runs.csv of iebn-zoo compare.')
    row = read_csv(made / 'summary.csv', {})[-1]
    last = ranked_value(row, 'top1')  # what iebn-zoo compare writes as last
    of = f' of {WEIGHTS_NAMES[EMA]}' if ranked_weights(row) == EMA else ''
    model, kwargs, seed = str(args.get('model')), args.get('model_kwargs') or {}, args.get('seed')
    if not holds_run(runs, model, kwargs, seed, last):
        raise UsageError(
            f'--runs {runs} has no run of {" ".join(filter(None, (model, arguments_of(kwargs))))} with seed {seed} and '
            f'a last top-1 of {last:.2f}{of}.\nGive runs.csv of the comparison that this run belongs to.')


def _dataset_of(made: Path, dataset_id: Optional[str]) -> Dict[str, Any]:
    if dataset_id:
        return dataset_of({}, 0, dataset_id)._asdict()
    report = next(made / name for name in (FOLD_REPORT, CONVERSION_REPORT) if (made / name).is_file())
    dataset = json.loads(report.read_text(encoding='utf-8')).get('trained_on')
    if not isinstance(dataset, dict):
        raise UsageError(f'{report.name} of an earlier version does not say what the weights were trained on.\n'
                         f'Give --dataset-id, or convert again.')
    return dict(id=dataset.get('id'), name=dataset.get('name'))


def _license(made: Path) -> Optional[str]:
    return license_id(read_config(made / CONFIG)['pretrained_cfg'].get('license'))
