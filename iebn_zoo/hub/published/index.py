"""The README.md of hub_cards: what lies there, as a table that is made of the folders."""
from typing import List, Optional, Sequence

from iebn_zoo.hub.card.card import UNKNOWN, measured_agreement
from iebn_zoo.hub.card.seeds import Arm, arguments_of
from iebn_zoo.hub.card.text import escape
from iebn_zoo.hub.published.folder import Folder

COMMAND = 'python -m iebn_zoo.hub.published hub_cards'
_HEAD = ('model and card', 'data', 'epochs', 'norm', 'parameters', 'last top-1 (%)', 'best top-1 (%)',
         'last top-1 over seeds (%)', 'license', 'base model', 'weights')
_TEXT = """\
# Cards

<!-- {command} writes this file. -->

A folder is a network with its card: ARCHITECTURE.TAG. It holds what `iebn-zoo export` or `iebn-zoo convert` wrote, and
the log that each figure of the card comes from. The accuracies are those of the log, on the evaluation images, in
percent; a card may also say what its files get right in float32. The best epoch was chosen on these images and is
therefore optimistic. The top-1 over seeds is the number of runs of this network by the same recipe, each with its
own seed, and the mean and the sample standard deviation of their last top-1; 1 is a single run, of which no spread is
known. Epochs of a folded network are those of its source.

{table}

{carried}

The card that `export` and `convert` write is made of the templates: `model_card.md.j2` is the frame, `run_card.md.j2`
the part for trained weights, `conversion_card.md.j2` the part for converted and folded ones.

After a change of a template or a log, this writes every card and this file anew:

    {command}

This adds a run or the output of `iebn-zoo convert` as a folder; with `--example` it leaves the weights out, and with
`--runs FILE` its card shows the other seeds and norms of a comparison (its `runs.csv`):

    {command} --add output/r20 --tag cifar100_30ep
"""


def index(folders: Sequence[Folder]) -> str:
    """Return the text of README.md for ``folders``."""
    rows = [_HEAD, ['---'] * len(_HEAD), *map(_row, folders)]
    table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
    return _TEXT.format(command=COMMAND, table=table, carried=_carried(folders))


def _row(folder: Folder) -> List[str]:
    network, (last, best) = folder.network, _accuracies(folder)
    return [f'[{folder.path.name}]({folder.path.name}/README.md)', escape(folder.dataset.name), _epochs(folder),
            _norm(folder), f'{network.parameters:,}', last, best, _seeds(folder), escape(folder.license or UNKNOWN),
            escape(_base_model(folder)), 'in the package' if folder.carried else 'not published: an example']


def _accuracies(folder: Folder) -> Sequence[str]:
    run, agreement = folder.run, measured_agreement(folder.report or {})
    if run is None:  # a conversion is measured once
        accuracy = agreement.get('accuracy')
        return ('' if accuracy is None else f'{100 * accuracy:.2f}'), ''
    if not run.rows or run.best_row is None:
        return '', ''
    column = run.column('top1')
    return f'{run.rows[-1][column]:.2f}', f'{run.best_row[column]:.2f}'


def _epochs(folder: Folder) -> str:
    if folder.run is None:
        return str(folder.source_epochs or '')
    done, planned = len(folder.run.rows), folder.run.planned_epochs
    return f'{done} of {planned}' if isinstance(planned, int) and done < planned else str(done)


def _base_model(folder: Folder) -> str:
    if folder.run is not None:
        return folder.run.base_model or ('none' if folder.run.scratch else UNKNOWN)
    report = folder.report or {}
    return report.get('base_model') or report.get('carried_as') or f"{report.get('source_architecture')}, not published"


def _norm(folder: Folder) -> str:
    if folder.network.is_iebn:
        return 'IEBN, gates held' if folder.network.gate_weight_frozen else 'IEBN'
    if folder.report is not None:
        folded = 'BatchNorm, folded and fine-tuned' if folder.report.get('tuning') else 'BatchNorm, folded'
        return folded if folder.report['kind'] == 'fold' else 'BatchNorm, converted'
    return 'BatchNorm and SE' if folder.network.arch.startswith('se_') else 'BatchNorm'


def _own_arm(folder: Folder) -> Optional[Arm]:
    if folder.run is None:
        return None
    own = folder.run.args.get('model'), arguments_of(folder.run.args.get('model_kwargs') or {})
    return next((arm for arm in folder.arms if (arm.model, arm.model_kwargs) == own), None)


def _seeds(folder: Folder) -> str:
    arm = _own_arm(folder)
    if arm is not None and arm.n > 1:
        return f'{arm.n}: {arm.last}'
    return '1'


def _carried(folders: Sequence[Folder]) -> str:
    name = next((folder.path.name for folder in folders if folder.carried), None)
    if name is None:
        return 'The package carries the weights of none of them: they are examples of what a card looks like.'
    return (f'Weights that are in the package load offline, after `import iebn_zoo`:\n'
            f"`timm.create_model('{name}', pretrained=True)`. The others are examples.")
