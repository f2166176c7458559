"""The card of a converted network. Every number on it stands in the report beside it."""
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from iebn_zoo.hub.card.card import UNKNOWN, usage
from iebn_zoo.hub.card.facts import Facts
from iebn_zoo.hub.card.mark import PLACEHOLDER, with_mark
from iebn_zoo.hub.card.sections import citation, details
from iebn_zoo.hub.card.text import code, escape, table
from iebn_zoo.hub.package.proof import CONVERSION_REPORT, FOLD_REPORT

_IEBN = 'Instance Enhancement Batch Normalization (IEBN, AAAI 2020)'
_GOLDEN = ('`golden.safetensors` holds inputs and an image with the logits these weights gave for them, and digests of '
           'all files:\n`iebn-zoo verify` checks a download against it.')


def make_conversion_card(
        facts: Facts,
        report: Mapping[str, Any],
        license: str = UNKNOWN,
        repo_id: Optional[str] = None,
) -> str:
    """The text of README.md.

    Args:
        facts: What the converted model says.
        report: As it is written beside the card.
        license: Hub id of a license; ``unknown`` is one.
        repo_id: For the usage snippets; without, a placeholder that ``with_repo_id`` fills.
    """
    describe, results = _KINDS[report['kind']]
    cited = replace(facts, is_iebn=True)  # IEBN is part of how a folded network came to be
    sections = [
        f'# {facts.title}', describe(report), '## Model Details', details(facts), '## Model Usage',
        usage(facts, repo_id or PLACEHOLDER), _GOLDEN, '## Conversion', _origin(report), results(report),
        '## Limitations', _limitations(facts, report), '## Citation', citation(cited)]
    body = '\n\n'.join(sections)
    return with_mark(str(ModelCard(f'---\n{_metadata(facts, report, license).to_yaml()}\n---\n\n{body}\n')), repo_id)


def _describe_iebn(report: Mapping[str, Any]) -> str:
    return (f'An image classification network with {_IEBN}, converted from the BatchNorm network '
            f'{code(report["source_architecture"])}. **Its weights were trained with BatchNorm, not with IEBN.** It '
            f'computes what that network computes: every gate is the same constant until it is trained. It is a start '
            f'for fine-tuning, and no evidence about IEBN.')


def _describe_bn(report: Mapping[str, Any]) -> str:
    return (f'An image classification network with BatchNorm, converted from {code(report["source_architecture"])}, '
            f'a network with {_IEBN} whose gates did not depend on the image. It computes the same.')


def _describe_fold(report: Mapping[str, Any]) -> str:
    return (f'An image classification network with BatchNorm, folded from {code(report["source_architecture"])}, a '
            f'network with {_IEBN}: each gate was replaced by its mean over {report["calibration_images"]:,} '
            f'calibration images and merged into the scale of its BatchNorm. **It approximates that network**; how '
            f'well is measured below.')


def _origin(report: Mapping[str, Any]) -> str:
    base = f', weights of {code(report["base_model"])}' if report['base_model'] else ''
    versions = ', '.join(f'{name} {version}' for name, version in report['versions'].items())
    return f'Source: {code(report["source"])}{base}. Made with {escape(versions)}.'


def _exact_results(report: Mapping[str, Any]) -> str:
    return (f'{report["converted_norms"]} norms were converted, {report["left_norms"]} were left as they are '
            f'([{CONVERSION_REPORT}]({CONVERSION_REPORT}) lists each with the reason). On the '
            f'{report["golden_inputs"]} golden inputs the logits differ from those of the source by at most '
            f'{report["max_logit_difference"]:.3g}; the largest is {report["max_logit"]:.3g}. Accuracy was not '
            f'measured again.')


def _fold_results(report: Mapping[str, Any]) -> str:
    data, a = report['data'], report['agreement']
    where = f'{escape(data["dataset"])}, {escape(data["held_out_split"])} split' if data else 'held-out images'
    rows = [
        ['held-out images', f'{a["held_out_images"]:,}'],
        ['the same top-1 class', f'{100 * a["top1_agreement"]:.2f} % ({a["same_top1"]:,})'],
        ['largest logit difference', f'{a["max_logit_difference"]:.4g}'],
        ['mean logit difference', f'{a["mean_logit_difference"]:.4g}'],
        ['largest logit', f'{a["max_logit"]:.4g}']]
    if a['labelled_images']:
        rows += [[f'top-1 accuracy {when}', f'{100 * a[f"accuracy_{key}"]:.2f} % ({a[f"correct_{key}"]:,})']
                 for when, key in (('before (IEBN)', 'original'), ('after (folded)', 'folded'))]
    head = f'Against the IEBN network, on {where}:'
    gates = (f'The gates, layer by layer: [fold_report.csv](fold_report.csv), all figures: '
             f'[{FOLD_REPORT}]({FOLD_REPORT}).\n\n![mean and spread of the gates, layer by layer](gates.png)')
    return f'{head}\n\n{table(("", "value"), rows)}\n\n{gates}'


def _limitations(facts: Facts, report: Mapping[str, Any]) -> str:
    lines = [f'- It knows the {facts.num_classes} classes of its data and says one of them for any image.',
             '- Biases of the training images are in the weights.']
    if report['kind'] == 'fold':
        lines.append('- What the gates adapted to each image is lost. On images unlike the calibration images the two '
                     'networks may agree less.')
    if facts.is_ours:
        lines.append('- Loading needs the package iebn-zoo (`import iebn_zoo`); timm alone does not know the network.')
    else:
        lines.append('- It is a network of timm: loading needs no other package.')
    return '\n'.join(lines)


_KINDS = {'bn_to_iebn': (_describe_iebn, _exact_results), 'iebn_to_bn': (_describe_bn, _exact_results),
          'fold': (_describe_fold, _fold_results)}


def _metadata(facts: Facts, report: Mapping[str, Any], license: str) -> ModelCardData:
    extra: Dict[str, Any] = {}
    if facts.dataset_id:
        extra['datasets'] = [facts.dataset_id]
    if report['base_model']:
        # the Hub knows finetune, adapter, merge and quantized: no word says "converted"
        extra.update(base_model=report['base_model'], base_model_relation='finetune')
    evals = _evaluation(facts, report)
    if evals:
        extra.update(eval_results=evals, metrics=['accuracy'])
    return ModelCardData(
        library_name='timm', pipeline_tag='image-classification', license=license,
        tags=['image-classification', 'timm', *(['iebn'] if facts.is_iebn else []), 'converted'],
        model_name=facts.arch, **extra)


def _evaluation(facts: Facts, report: Mapping[str, Any]) -> List[EvalResult]:
    a, data = report.get('agreement') or {}, report.get('data') or {}
    if not a.get('labelled_images') or a['labelled_images'] != data.get('held_out_available'):
        return []  # a part of the split says nothing that could be compared
    return [EvalResult(
        task_type='image-classification', task_name='Image Classification', dataset_type=facts.dataset_id or 'custom',
        dataset_name=data['dataset'], dataset_split=data['held_out_split'], metric_type='accuracy', metric_name='top-1',
        metric_value=100 * a['accuracy_folded'])]
