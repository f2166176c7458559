"""The notebooks are stored without outputs, run from their first to their last cell, and show their pictures."""
import ast
import itertools
import os
import re
import shutil

import nbformat
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from iebn_zoo.util.resources import install_line
from tests.support.hub.exported import make_export
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures('warm_python')

FOLDER = ROOT / 'scripts' / 'notebooks'
# pictures that a notebook shows, and what it prints
SHOWN = {
    'classify_and_gates': (3, r'\d+ of 50 are right'),
    'fine_tune_a_folder': (3, r'new classifier: 4 -> 5 classes.*6 files are those of the export; a logit differs by'),
    'convert_fold_export': (1, r"7 of 9 norms converted.*\['BatchNorm2d'\].*same class to \d+ of 150 images"),
}


def read(name):
    return nbformat.read(FOLDER / f'{name}.ipynb', as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def test_all_notebooks_are_tested():
    assert {path.stem for path in FOLDER.glob('*.ipynb')} == set(SHOWN)


@pytest.mark.parametrize('name', SHOWN)
def test_it_is_stored_without_outputs_and_places(name):
    notebook, text = read(name), (FOLDER / f'{name}.ipynb').read_text(encoding='utf-8')
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None and not cell.metadata
        assert not re.search(r'^\s*[!%]', cell.source, flags=re.M)  # a failure of a shell command would not stop it
    assert not re.search(r'/(home|Users|work|tmp|root)/|[A-Z]:\\\\', text)
    assert set(notebook.metadata) == {'kernelspec', 'language_info'} and notebook.metadata.kernelspec.name == 'python3'
    prose = [cell.source for cell in notebook.cells if cell.cell_type == 'markdown']
    assert prose[0].startswith('# ') and any('iebn_resnet50.bn_a1_in1k' in text for text in prose)
    for link in re.findall(r'\]\((?!https?:)([^)]+)\)', '\n'.join(prose)):
        assert (FOLDER / link).exists(), link


def replacements(notebook):
    """Pairs of a code cell and the lines that the text before it names for images or weights of one's own."""
    for text, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if text.cell_type == 'markdown' and '**For ' in text.source:
            assert 'replace the next cell by th' in text.source and cell.cell_type == 'code'
            (lines,) = re.findall(r'^```python\n(.*?)^```', text.source, flags=re.M | re.S)
            yield cell, lines


def names(source, context):
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and type(node.ctx) is context}


@pytest.mark.parametrize('name', SHOWN)
def test_a_replacement_defines_what_other_cells_use(name):
    """Also where a reader replaces only one of the cells."""
    cells, replaced = code_cells(read(name)), list(replacements(read(name)))
    assert replaced
    for cell, lines in replaced:
        tree = ast.parse(cell.source)
        made = names(cell.source, ast.Store) | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        made |= {alias.asname or alias.name for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
                 for alias in node.names}
        used = set().union(*(names(other.source, ast.Load) for other in cells if other.source != cell.source))
        assert used & made == names(lines, ast.Store)


@pytest.mark.parametrize('name', SHOWN)
def test_the_first_cell_says_how_to_install(name):
    assert f"\n```sh\n{install_line('notebooks,demo')}\n```" in read(name).cells[0].source


def run(notebook, folder):
    """Run a notebook in a folder; return what it printed and the number of pictures that it shows."""
    client = pytest.importorskip('nbclient', reason=install_line('notebooks'))
    pytest.importorskip('ipykernel', reason=install_line('notebooks'))
    pytest.importorskip('sklearn', reason=install_line('demo'))
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'TMPDIR': str(folder),
           'HF_HUB_OFFLINE': '1', 'IPYTHONDIR': str(folder / 'ipython'),
           'MPLBACKEND': 'module://matplotlib_inline.backend_inline'}
    client.NotebookClient(notebook, timeout=600, kernel_name='python3',
                          resources={'metadata': {'path': str(folder)}}).execute(env=env)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    printed = ''.join(output.text for output in outputs if output.output_type == 'stream' and output.name == 'stdout')
    return printed, sum('image/png' in output.get('data', {}) for output in outputs)


@pytest.mark.parametrize('name', SHOWN)
def test_it_runs(name, tmp_path):
    printed, pictures = run(read(name), tmp_path)
    expected, said = SHOWN[name]
    assert pictures == expected
    assert re.search(said, printed, flags=re.S), printed
    right = re.search(r'(\d+) of 50 are right', printed)
    assert right is None or int(right[1]) >= 35


def write_photos(folder, classes=('cat', 'dog'), count=15):
    random = np.random.default_rng(0)
    for number, label in itertools.product(range(count), classes):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(random.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8))
        image.save(folder / label / f'{number}.jpg')


@pytest.fixture
def own(tmp_path):
    """A folder with images of one's own, and weights for what a notebook would download: name -> local-dir."""
    for folder in ('my_images', 'my_new_images', 'my_images/train', 'my_images/val'):
        write_photos(tmp_path / folder)
    torch.manual_seed(0)
    bn = timm.create_model('bn_resnet20_cifar', layers=(1, 1, 1), num_classes=4)
    save_for_hf(bn, str(tmp_path / 'bn'), model_args={'layers': (1, 1, 1)}, safe_serialization=True)
    return {'iebn_resnet50.bn_a1_in1k': make_export(tmp_path / 'iebn', layers=(1, 1, 1)),
            'resnet50.a1_in1k': tmp_path / 'bn'}


# what a notebook says of images of one's own; their folders in the first one are no classes of the network
SAID = {
    'classify_and_gates': r'the folders of these images are not named after classes',
    'fine_tune_a_folder': r'cat 15 images\ndog 15 images.*ResNet with 2 classes',
    'convert_fold_export': r'same class to \d+ of 30 images',
}


@pytest.mark.parametrize('name', SHOWN)
def test_it_runs_with_images_of_ones_own(name, own, tmp_path):
    if name != 'convert_fold_export':
        shutil.rmtree(tmp_path / 'my_images' / 'train')
        shutil.rmtree(tmp_path / 'my_images' / 'val')
    notebook = read(name)
    for cell, lines in replacements(notebook):
        cell.source = re.sub(r"'((?:iebn_)?resnet50\..*?)'", lambda found: repr(f'local-dir:{own[found[1]]}'), lines)
    printed, pictures = run(notebook, tmp_path)
    assert pictures == SHOWN[name][0]
    assert re.search(SAID[name], printed, flags=re.S), printed
