"""Import arrows: weights knows models and layers, and nothing of those that use it."""
import ast
from pathlib import Path

import iebn_zoo.weights

ROOM = Path(iebn_zoo.weights.__file__).parent
ALLOWED = ('iebn_zoo', 'iebn_zoo._compat', 'iebn_zoo.util', 'iebn_zoo.layers', 'iebn_zoo.models', 'iebn_zoo.weights')


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or '.'


def test_weights_imports_what_lies_below_it():
    for path in ROOM.glob('*.py'):
        for name in imported(path):
            own = name.split('.')[0] == 'iebn_zoo'
            assert not own or '.'.join(name.split('.')[:2]) in ALLOWED, (path.name, name)


def test_nobody_else_reads_or_builds():
    # torch.load, load_file and create_model on what a stranger wrote stand in one place each; the modules named here
    # open what was just checked, or time a network of their own
    root = ROOM.parent
    free = {'hub/card/network_facts.py', 'hub/package/golden.py', 'hub/package/proof.py', 'hub/push/verify.py'}
    for path in root.rglob('*.py'):
        name = path.relative_to(root).as_posix()
        if name.startswith('weights/') or name in free:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = f'{getattr(node.func.value, "id", "")}.{node.func.attr}'
                assert call not in ('torch.load', 'timm.create_model', 'pickle.load', 'pickle.loads'), (name, call)


def test_a_room_has_at_most_twelve_modules_of_one_screenful_to_four_hundred_lines():
    modules = list(ROOM.glob('*.py'))
    assert len(modules) <= 12
    assert all(len(path.read_text().splitlines()) <= 350 for path in modules)
