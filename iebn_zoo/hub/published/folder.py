"""A folder of hub_cards: the files of an export, and what else its card is made of.

It is an export directory, with its weights where the package carries them and without where it is an example. Beside
the files of the export stand args.yaml and environment.json of the run, without places on somebody's machine, and
facts.json: what else the checkpoint said, or for a conversion the license and the data of its source. So the card can
be written anew when its template has changed, and no weights are needed for that.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional

from iebn_zoo.hub.card.card import UNKNOWN, make_card, make_conversion_card
from iebn_zoo.hub.card.evaluation_facts import read_evaluation
from iebn_zoo.hub.card.network_facts import NetworkFacts, network_facts
from iebn_zoo.hub.card.run_facts import Dataset, RunFacts, read_run
from iebn_zoo.hub.card.seeds import RUNS, Arm, read_arms
from iebn_zoo.hub.package.config import DATA_FIELDS
from iebn_zoo.hub.package.golden import CARD, GOLDEN, file_digest, read_golden, rebind_card
from iebn_zoo.hub.package.proof import CONFIG, CONVERSION_REPORT, FOLD_REPORT, WEIGHTS
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import write_text
from iebn_zoo.weights.config_check import check_config
from iebn_zoo.weights.create import build

FACTS, SOURCE_LOG = 'facts.json', 'source_summary.csv'


@dataclass(frozen=True)
class Folder:
    """A folder of hub_cards.

    Attributes:
        path: The folder; its name is ARCHITECTURE.TAG.
        network: What the network says.
        dataset: The data that the weights were trained on.
        license: Hub id of their license, or None.
        run: What the run says; None for a conversion.
        report: The report of the conversion; None for a run.
        arms: Runs of the same recipe with other seeds and norms, or [].
        carried: The package carries the weights.
        source_epochs: Epochs of the run that was converted, where its log lies beside the card, or None.
    """

    path: Path
    network: NetworkFacts
    dataset: Dataset
    license: Optional[str]
    run: Optional[RunFacts]
    report: Optional[Mapping[str, Any]]
    arms: List[Arm]
    carried: bool
    source_epochs: Optional[int] = None

    def card(self) -> str:
        """Return the text of its README.md."""
        license = self.license or UNKNOWN
        if self.run is not None:
            return make_card(self.network, self.run, license, arms=self.arms, evaluation=read_evaluation(self.path),
                             carried_as=self.path.name if self.carried else None)
        assert self.report is not None
        return make_conversion_card(self.network, self.dataset, self.report, license)


def folders(hub_cards: Path) -> List[Folder]:
    """Read every folder that holds a config.json, in the order of their names.

    Raises:
        IEBNZooError: A folder is damaged; the message names the file.
    """
    return [read_folder(path.parent) for path in sorted(hub_cards.glob(f'*.*/{CONFIG}'))]


def read_folder(path: Path) -> Folder:
    """Read a folder of hub_cards.

    Raises:
        IEBNZooError: A file is missing or damaged; the message names it.
    """
    config = check_config(path / CONFIG)
    arch, args, cfg = config['architecture'], config['model_args'], config['pretrained_cfg']
    model = build(arch, arch, False, {**args, 'num_classes': config['num_classes']}).eval()
    network = network_facts(model, arch, {**args, 'num_classes': config['num_classes']},
                            {name: cfg[name] for name in DATA_FIELDS if name in cfg}, config.get('label_names'))
    facts = _mapping(path / FACTS)
    report = next((_mapping(path / name) for name in (FOLD_REPORT, CONVERSION_REPORT) if (path / name).is_file()), None)
    arms, carried = read_arms(path / RUNS), (path / WEIGHTS).is_file()
    try:
        if report is not None:
            dataset = Dataset(facts['dataset']['id'], facts['dataset']['name'])
            return Folder(path, network, dataset, facts['license'], None, report, arms, carried,
                          _epochs(path / SOURCE_LOG))
        checkpoint = dict(epoch=facts['epoch'], num_eval_images=facts['num_eval_images'], start=facts['start'],
                          model_args=args, earlier_recipes=facts.get('earlier_recipes', []))
        if 'planned_epochs' in facts:
            checkpoint['planned_epochs'] = facts['planned_epochs']
        run = read_run(path, checkpoint, network.num_classes, facts['ema'], facts['dataset_id'])
        return Folder(path, network, run.dataset, facts['license'], run, None, arms, carried)
    except (KeyError, TypeError) as e:
        raise IEBNZooError(f'{path / FACTS} lacks a fact: {e}.\nAdd the folder again with --add.') from e


def write_card(folder: Folder) -> bool:
    """Write README.md of a folder if it differs; say so. golden.safetensors, where there is one, is bound to it."""
    path, text = folder.path / CARD, folder.card()
    changed = not path.is_file() or path.read_text(encoding='utf-8') != text
    if changed:
        write_text(path, text)
    golden = folder.path / GOLDEN
    if folder.carried and golden.is_file() and read_golden(golden).files.get(CARD) != file_digest(path):
        rebind_card(folder.path)
        return True
    return changed


def _epochs(log: Path) -> Optional[int]:
    return sum(1 for line in log.read_text(encoding='utf-8').splitlines() if line) - 1 if log.is_file() else None


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise IEBNZooError(f'cannot read {path}: {e}.\nAdd the folder again with --add.') from e
    if not isinstance(value, dict):
        raise IEBNZooError(f'{path} holds a {type(value).__name__}.\nExpected names and values.')
    return value
