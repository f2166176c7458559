"""The names that the Hub allows for repositories, datasets, base models and licenses."""
from typing import Optional

from huggingface_hub.utils import HFValidationError, validate_repo_id

from iebn_zoo.hub.card.card import UNKNOWN
from iebn_zoo.util.errors import UsageError
from iebn_zoo.weights.config import license_id


def check_repo_id(repo_id: str) -> None:
    """Raise UsageError unless ``repo_id`` is OWNER/NAME as the Hub allows it."""
    try:
        validate_repo_id(repo_id)
        valid = repo_id.count('/') == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UsageError(
            f'{repo_id!r} is not a repository id.\n'
            f'Expected OWNER/NAME of letters, digits, "-", "_" and ".", such as me/iebn_resnet20_cifar100.'
        )


def check_ids(
        license: Optional[str],
        repo_id: Optional[str],
        dataset_id: Optional[str],
        base_model: Optional[str] = None,
) -> None:
    """Raise UsageError for an id that the Hub does not allow; None is no id."""
    if license not in (None, UNKNOWN) and license_id(license) is None:
        raise UsageError(f"--license is {license!r}.\nExpected the Hub's id of a license, such as apache-2.0 or mit.")
    if repo_id is not None:
        check_repo_id(repo_id)
    for flag, value, example in (('--dataset-id', dataset_id, 'a dataset on the Hub, such as uoft-cs/cifar100'),
                                 ('--base-model', base_model, 'a model on the Hub, such as timm/resnet50.a1_in1k')):
        try:
            validate_repo_id(value or 'none')
        except HFValidationError as e:
            raise UsageError(f'{flag} is {value!r}.\nExpected {example}.') from e
