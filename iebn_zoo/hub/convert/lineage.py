"""How the weights that a conversion starts from were trained, as far as anything at hand tells.

A BatchNorm network is no proof of a training with BatchNorm: it may be an IEBN network whose gates were folded. The
card of a conversion says what is known, and for that the conversion reads the report beside the weights, if there is
one.
"""
import json
import re
from typing import Any, Dict

from iebn_zoo.hub.convert.convert import BN_TO_IEBN, FOLD, IEBN_TO_BN
from iebn_zoo.hub.package.golden import GOLDEN, read_golden
from iebn_zoo.hub.package.proof import CONVERSION_REPORT, FOLD_REPORT
from iebn_zoo.training.run.origin import start_of
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.open import Network
from iebn_zoo.weights.repository import Repository

BN, BN_LAST, UNKNOWN = 'bn', 'bn_last', 'unknown'
_FROM_TIMM = 'timm/'


def training_of(source: Network, kind: str) -> Dict[str, Any]:
    """Return what is known of the training behind the weights of ``source``, as JSON values.

    Args:
        source: The network that is converted.
        kind: What the conversion does: BN_TO_IEBN, IEBN_TO_BN or FOLD.

    Returns:
        ``kind``: BN, trained with BatchNorm; BN_LAST, trained with BatchNorm by a run that may have begun with any
        weights; FOLD or IEBN_TO_BN, made of the IEBN network ``architecture``, and after a fold perhaps ``tuned``; or
        UNKNOWN.
    """
    repository = source.repository
    if repository is not None:
        found = _of_report(repository)
        if found is None and kind == BN_TO_IEBN:
            found = {'kind': BN} if (repository.hub_id or '').startswith(_FROM_TIMM) else _of_export(repository)
        return found or {'kind': UNKNOWN}
    if source.checkpoint:
        if kind != BN_TO_IEBN:
            return {'kind': UNKNOWN}  # the run of an IEBN network, whose card says more
        args = source.checkpoint.get('args')
        return {'kind': BN if _is_bn_start(source, args if isinstance(args, dict) else {}) else BN_LAST}
    # a tag: those of timm, and the BN networks that the package carries, were trained with BatchNorm
    bn_tag = source.base_model or source.carried and kind == BN_TO_IEBN
    return {'kind': BN if bn_tag else UNKNOWN}


def _is_bn_start(source: Network, args: Dict[str, Any]) -> bool:
    """Tell whether a BN run began with random weights or with a tag of a BN network."""
    tag = args.get('pretrained') and not args.get('initial_checkpoint') and ':' not in str(args.get('model'))
    return bool(tag) or start_of(source.checkpoint, args)['scratch']


def _of_report(repository: Repository) -> Any:
    for name in (FOLD_REPORT, CONVERSION_REPORT):
        report = _read(repository, name)
        architecture = report.get('source_architecture')
        if not isinstance(architecture, str) or not re.fullmatch(r'[\w.-]{1,100}', architecture):
            continue  # there is no report, or somebody else wrote it
        before = report.get('source_weights')
        if name == CONVERSION_REPORT and isinstance(before, dict) and before.get('kind') in (BN, BN_LAST):
            return {'kind': before['kind']}  # an exact conversion has changed nothing of that
        if name == FOLD_REPORT:
            return {'kind': FOLD, 'architecture': architecture, 'tuned': bool(report.get('tuning'))}
        known = report.get('kind') == IEBN_TO_BN
        return {'kind': IEBN_TO_BN, 'architecture': architecture} if known else {'kind': UNKNOWN}
    return None


def _of_export(repository: Repository) -> Any:
    """Return that a BN network was exported from a training run, if golden.safetensors binds no other report."""
    try:
        path = repository.file(GOLDEN)
        bound = read_golden(path).files if path is not None else {}
    except IEBNZooError:  # another library's file, or the Hub does not answer
        return None
    return {'kind': BN_LAST} if bound and not {FOLD_REPORT, CONVERSION_REPORT} & set(bound) else None


def _read(repository: Repository, name: str) -> Dict[str, Any]:
    try:
        path = repository.file(name)
        report = json.loads(path.read_text(encoding='utf-8')) if path is not None else {}
    except (IEBNZooError, OSError, ValueError, RecursionError):  # what cannot be read tells nothing
        return {}
    return report if isinstance(report, dict) else {}
