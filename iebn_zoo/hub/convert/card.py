"""The card of a converted network. Every number on it stands in the report beside it."""
from typing import Any, Mapping, Optional

from iebn_zoo.hub.card.card import UNKNOWN, accuracy, fill, metadata, version_list
from iebn_zoo.hub.card.network_facts import NetworkFacts
from iebn_zoo.hub.card.run_facts import Dataset


def make_conversion_card(
        network: NetworkFacts,
        dataset: Dataset,
        report: Mapping[str, Any],
        license: str = UNKNOWN,
        repo_id: Optional[str] = None,
) -> str:
    """Return the text of README.md for a converted network.

    Args:
        network: What the converted network says.
        dataset: The data that the weights were trained on.
        report: The report that is written beside the card.
        license: Hub id of a license; ``unknown`` is one.
        repo_id: Repository that the usage snippets name. Default: a placeholder, which ``with_repo_id`` replaces.
    """
    agreement, images, evals = report.get('agreement') or {}, report.get('data') or {}, []
    # an accuracy on a part of the split could not be compared with any other
    if agreement.get('labelled_images') and agreement['labelled_images'] == images.get('held_out_available'):
        evals = [accuracy(dataset, images['dataset'], images['held_out_split'], 'accuracy', 'top-1',
                          100 * agreement['accuracy_folded'])]
    # the Hub knows finetune, adapter, merge and quantized as relations to a base model, and no word for "converted"
    data = metadata(network, dataset, license, report['base_model'], evals, ['converted'],
                    **({'metrics': ['accuracy']} if evals else {}))
    return fill('conversion_card', data, network, dataset, repo_id, report=report,
                versions=version_list(report['versions']))
