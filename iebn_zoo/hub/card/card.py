"""The model card: the templates of hub_cards, filled with facts. Every number is read from files or measured.

Jinja takes no part of a value for a template. A value from a run or from data stands in a template as ``text(value)``
or ``code(value)``, which keep it from being taken for Markdown or HTML.
"""
import shlex
from typing import Any, List, Mapping, Optional, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from iebn_zoo.hub.card.command import training_command
from iebn_zoo.hub.card.evaluation_facts import Evaluation
from iebn_zoo.hub.card.format_facts import FormatFacts
from iebn_zoo.hub.card.mark import PLACEHOLDER, with_mark
from iebn_zoo.hub.card.network_facts import NetworkFacts
from iebn_zoo.hub.card.run_facts import Dataset, RunFacts, dataset_of
from iebn_zoo.hub.card.seeds import RUNS, Arm
from iebn_zoo.hub.card.settings import shown_changes, shown_settings
from iebn_zoo.hub.card.text import code, escape, without_paths
from iebn_zoo.util.resources import install_line, resource

UNKNOWN = 'unknown'  # the Hub's id for a license that nobody knows
_PACKAGES = ('iebn_zoo', 'timm', 'torch', 'python')


def make_card(
        network: NetworkFacts,
        run: RunFacts,
        license: str = UNKNOWN,
        repo_id: Optional[str] = None,
        arms: Sequence[Arm] = (),
        formats: Sequence[FormatFacts] = (),
        evaluation: Optional[Evaluation] = None,
        carried_as: Optional[str] = None,
) -> str:
    """Return the text of README.md for the weights of a run.

    Args:
        network: What the network says.
        run: What the run says.
        license: Hub id of a license; ``unknown`` is one.
        repo_id: Repository that the usage snippets name. Default: a placeholder, which ``with_repo_id`` replaces.
        arms: Runs of the same recipe with other seeds and norms.
        formats: The files for other runtimes.
        evaluation: What the exported files get right. The metadata of the card then say that, in place of the log.
        carried_as: Name under which the package itself carries these weights.
    """
    row, found = run.exported_row, None
    if evaluation is not None:
        found = evaluation.top1, evaluation.top5
    elif row is not None:
        found = row[run.column('top1')], row[run.column('top5')]
    evals = [] if found is None else [
        _accuracy(run.dataset, run.dataset.name, run.dataset_split, metric, name, value)
        for metric, name, value in zip(('accuracy', 'top_5_accuracy'), ('top-1', 'top-5'), found, strict=True)]
    data = _metadata(network, run.dataset, license, run.base_model, evals, metrics=['accuracy'])
    gate_start = run.gate_start if network.is_iebn else None
    size = network.data_config['input_size']
    command = training_command(run.args, run.environment.get('num_processes'), gate_start) or _given_command(run)
    return _fill('run_card', data, network, run.dataset, repo_id, formats, run=run, evaluation=evaluation,
                 carried_as=carried_as, arms=list(arms), runs_file=RUNS,
                 settings=shown_settings(run.args, size), changes=shown_changes(run.earlier, run.args, size),
                 command=command.replace('`', "'"), versions=_versions(run.environment))


def _given_command(run: RunFacts) -> str:
    """Return the words that somebody typed, for a run that left no args.yaml."""
    command, data_dir = run.environment.get('command'), str(run.args.get('data_dir') or '')
    return shlex.join(without_paths([str(part) for part in command], data_dir)) if isinstance(command, list) else ''


def make_conversion_card(
        network: NetworkFacts,
        dataset: Dataset,
        report: Mapping[str, Any],
        license: str = UNKNOWN,
        repo_id: Optional[str] = None,
        formats: Sequence[FormatFacts] = (),
) -> str:
    """Return the text of README.md for a converted network.

    Args:
        network: What the converted network says.
        dataset: The data that the weights were trained on.
        report: The report that is written beside the card.
        license: See ``make_card``.
        repo_id: See ``make_card``.
        formats: See ``make_card``.
    """
    agreement, images, evals = measured_agreement(report), report.get('data') or {}, []
    # an accuracy on a part of the split could not be compared with any other
    if agreement.get('labelled_images') and agreement['labelled_images'] == images.get('held_out_available'):
        known = dataset.name == images['dataset']  # a folder may hold other images than those of the training
        evals = [_accuracy(dataset if known else Dataset(None, images['dataset']), images['dataset'],
                           images['held_out_split'] if known else None, 'accuracy', 'top-1',
                           100 * agreement['accuracy'])]
    tuned_on = report.get('tuning') and dataset_of({'dataset': images['dataset']}, network.num_classes, None).id
    # the Hub knows finetune, adapter, merge and quantized as relations to a base model, and no word for "converted"
    data = _metadata(network, dataset, license, report['base_model'], evals, ['converted'], tuned_on,
                     **({'metrics': ['accuracy']} if evals else {}))
    return _fill('conversion_card', data, network, dataset, repo_id, formats, report=report,
                 versions=_versions(report['versions']))


def measured_agreement(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was measured of the weights that a conversion wrote, with their ``accuracy``: of the fine-tuned
    weights if the network was fine-tuned."""
    tuning = report.get('tuning')
    found = (tuning or report).get('agreement') or {}
    return {**found, 'accuracy': found.get('accuracy_tuned' if tuning else 'accuracy_folded')}


def _fill(
        name: str,
        data: ModelCardData,
        network: NetworkFacts,
        dataset: Dataset,
        repo_id: Optional[str],
        formats: Sequence[FormatFacts],
        **facts: Any,
) -> str:
    layout = Template(resource('hub_cards', 'model_card.md.j2').read_text(encoding='utf-8'))
    install = install_line() if network.is_ours else 'pip install timm'
    card = ModelCard.from_template(
        data, template_path=str(resource('hub_cards', f'{name}.md.j2')), layout=layout, text=escape, code=code,
        network=network, dataset=dataset, repo_id=repo_id or PLACEHOLDER, install=install, formats=list(formats),
        license=data.license or UNKNOWN, unknown=UNKNOWN, **facts)
    return with_mark(str(card), repo_id)


def _metadata(
        network: NetworkFacts,
        dataset: Dataset,
        license: str,
        base_model: Optional[str],
        evals: List[EvalResult],
        tags: Sequence[str] = (),
        tuned_on: Optional[str] = None,
        **extra: Any,
) -> ModelCardData:
    ids = list(dict.fromkeys(filter(None, (dataset.id, tuned_on))))
    if ids:
        extra['datasets'] = ids
    if base_model:
        extra.update(base_model=base_model, base_model_relation='finetune')
    return ModelCardData(
        library_name='timm', pipeline_tag='image-classification', license=license, model_name=network.arch,
        tags=['image-classification', 'timm', *(['iebn'] if network.is_iebn else []), *tags],
        eval_results=evals or None, **extra)


def _accuracy(dataset: Dataset, name: str, split: Optional[str], metric: str, metric_name: str,
              value: float) -> EvalResult:
    return EvalResult(
        task_type='image-classification', task_name='Image Classification', dataset_type=dataset.id or 'custom',
        dataset_name=name, dataset_split=split, metric_type=metric, metric_name=metric_name,
        metric_value=round(value, 2))


def _versions(versions: Mapping[str, Any]) -> str:
    return ', '.join(f'{name} {versions[name]}' for name in _PACKAGES if name in versions)
