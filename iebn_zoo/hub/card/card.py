"""The model card. Every number on it is read from the run's files or measured on the model."""
from string import Template
from typing import Any, Dict, List, Optional

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from iebn_zoo.hub.card.facts import Facts
from iebn_zoo.hub.card.mark import PLACEHOLDER, with_mark, with_repo_id
from iebn_zoo.hub.card.sections import citation, description, details, limitations, results
from iebn_zoo.hub.card.training import base_model, training
from iebn_zoo.util.resources import resource

UNKNOWN = 'unknown'  # the Hub's id for a license that nobody knows
__all__ = ['PLACEHOLDER', 'UNKNOWN', 'make_card', 'usage', 'with_repo_id']

_OPEN = """${package}import timm
import torch
$image
model = timm.create_model('hf-hub:$repo', pretrained=True$more).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

with torch.inference_mode():
"""
# heading -> (further arguments of create_model, what is done with the model)
_USES = {
    'Image Classification': ('', """    logits = model(transform(image)[None])
top = logits.softmax(dim=1).topk(min(5, logits.shape[1]))
names = model.pretrained_cfg.get('label_names') or range(logits.shape[1])
for probability, index in zip(top.values[0].tolist(), top.indices[0].tolist()):
    print(f'{names[index]}: {probability:.3f}')"""),
    'Feature Map Extraction': (', features_only=True', """    for feature_map in model(transform(image)[None]):
        print(feature_map.shape)  # $shapes"""),
    'Image Embeddings': (', num_classes=0', """    embedding = model(transform(image)[None])
print(embedding.shape)"""),
}


def make_card(facts: Facts, license: str = UNKNOWN, repo_id: Optional[str] = None) -> str:
    """The text of README.md.

    Args:
        facts: What the run and the model say.
        license: Hub id of a license; ``unknown`` is one.
        repo_id: For the usage snippets; without, a placeholder that ``with_repo_id`` fills.
    """
    body = Template(resource('hub_cards', 'model_card.md').read_text(encoding='utf-8')).substitute(
        title=facts.title, description=description(facts), details=details(facts),
        usage=usage(facts, repo_id or PLACEHOLDER), results=results(facts), training=training(facts),
        limitations=limitations(facts), citation=citation(facts))
    return with_mark(str(ModelCard(f'---\n{_metadata(facts, license).to_yaml()}\n---\n\n{body}')), repo_id)


def usage(facts: Facts, repo: str) -> str:
    """The snippets, one a way of use that the network has; ``repo`` is OWNER/NAME."""
    mode = 'L' if facts.data_config['input_size'][0] == 1 else 'RGB'
    shapes = ', '.join(str(shape) for shape in facts.feature_shapes or [])
    shapes = shapes if len(shapes) <= 80 else f'{len(facts.feature_shapes or [])} of them'
    # timm's own networks, folded ones among them, load without this package
    package = 'import iebn_zoo  # registers its models in timm\n' if facts.is_ours else ''
    # opened as training did: upright, 16 bits scaled, what is transparent on white
    image = (f"\nimage = iebn_zoo.open_image('image.png', '{mode}')" if facts.is_ours else
             "from PIL import Image, ImageOps\n\n"
             f"image = ImageOps.exif_transpose(Image.open('image.png')).convert('{mode}')")
    parts = []
    for heading, (more, body) in _USES.items():
        if 'features_only' in more and facts.feature_shapes is None:
            continue
        snippet = Template(_OPEN + body).substitute(
            package=package, image=image, repo=repo, more=more, shapes=shapes)
        parts.append(f'### {heading}\n\n```python\n{snippet}\n```')
    return '\n\n'.join(parts)


def _metadata(facts: Facts, license: str) -> ModelCardData:
    row = facts.exported_row
    evals: List[EvalResult] = []
    for column, metric, name in (('top1', 'accuracy', 'top-1'), ('top5', 'top_5_accuracy', 'top-5')):
        if row is not None:
            evals.append(EvalResult(
                task_type='image-classification', task_name='Image Classification',
                dataset_type=facts.dataset_id or 'custom', dataset_name=facts.dataset_name,
                dataset_split=facts.dataset_split, metric_type=metric, metric_name=name,
                metric_value=row[facts.column(column)]))
    extra: Dict[str, Any] = {}
    if facts.dataset_id:
        extra['datasets'] = [facts.dataset_id]
    base = base_model(facts.args)
    if base:
        extra.update(base_model=base, base_model_relation='finetune')
    return ModelCardData(
        library_name='timm', pipeline_tag='image-classification', license=license, metrics=['accuracy'],
        tags=['image-classification', 'timm', *(['iebn'] if facts.is_iebn else [])], model_name=facts.arch,
        eval_results=evals or None, **extra)
