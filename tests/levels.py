"""The levels of the tests: unit, contract, e2e and gpu. A test is a unit test unless its file is named here.

contract: what timm, torch and their compilers promise, and the interface of every network. e2e: whole commands,
processes of their own, a Hub server, runs of several epochs. gpu: what needs a GPU.
"""
from typing import Dict, Tuple

LEVELS: Dict[str, Tuple[str, ...]] = {
    'gpu': (
        'tests/gpu/',),
    'contract': (
        'tests/contracts/', 'tests/test_compat.py', 'tests/models/', 'tests/ops/test_compiled.py',
        'tests/ops/test_triton', 'tests/layers/test_training_tools.py', 'tests/layers/test_compilers.py',
        'tests/conversion/folding/test_networks.py', 'tests/conversion/test_families.py', 'tests/hub/formats/',),
    'e2e': (
        'tests/commands/test_demo.py', 'tests/data/test_hub_datasets.py', 'tests/data/test_listing.py',
        'tests/data/test_runs.py', 'tests/hub/card/test_license.py', 'tests/hub/convert/',
        'tests/hub/package/test_export.py', 'tests/hub/push/', 'tests/hub/test_', 'tests/notebooks/',
        'tests/prediction/', 'tests/space/',
        'tests/studies/benchmark/', 'tests/studies/compare/', 'tests/studies/noise/test_extension.py',
        'tests/test_import.py', 'tests/test_packaging.py', 'tests/test_readme.py', 'tests/test_warm_python.py',
        'tests/training/callbacks/', 'tests/training/engine/', 'tests/training/run/test_environment.py',
        'tests/training/run/test_lock.py', 'tests/training/run/test_ranking.py', 'tests/training/run/test_resume.py',
        'tests/training/test_',
        'tests/weights/test_hub.py', 'tests/weights/test_mutations.py', 'tests/weights/test_resume.py',
        'tests/weights/test_security.py',),
}


def level_of(path: str) -> str:
    """Return the level of a test.

    Args:
        path: Of its file, from the root of the repository, with ``/``.
    """
    return next((level for level, starts in LEVELS.items() if path.startswith(starts)), 'unit')
