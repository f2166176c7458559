"""What a push does to the README.md on the Hub, what it sends along, and what it says of licenses and visibility."""
import json
import shutil

import pytest

from tests.hub.push.test_push import COMMIT, contents, writes
from tests.support.hub.exported import make_export

pytestmark = pytest.mark.usefixtures('warm_python')

HAND = b'---\nlicense: cc-by-nc-4.0\n---\n# My own page\n\nWritten by me.\n'


def test_a_card_written_by_hand_stays(hub, driver, export_dir):
    hub.add_repo('me/x', {'README.md': HAND, 'config.json': b'{}'})
    preview = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run')
    assert preview.code == 0 and not writes(hub), preview
    assert 'replace  config.json' in preview.stdout and 'replace  README.md' not in preview.stdout
    assert 'README.md on the Hub was written or edited by hand and stays; --replace-card' in preview.stdout
    assert 'license on the card: before cc-by-nc-4.0, after cc-by-nc-4.0' in preview.stdout

    done = driver.push(export_dir, '--repo-id', 'me/x')
    assert done.code == 0 and 'by hand and stays' in done.stdout, done
    assert hub.files('me/x') == {**contents(export_dir), 'README.md': HAND}
    # what was pushed is proved all the same, also later and by others
    verified = driver.verify('me/x')
    assert verified.code == 0 and 'edited  README.md' in verified.stdout


def test_replace_card_replaces_it_and_tells_the_license(hub, driver, export_dir):
    hub.add_repo('me/x', {'README.md': HAND})
    preview = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run', '--replace-card')
    assert 'replace  README.md' in preview.stdout and not writes(hub)
    assert 'license on the card: before cc-by-nc-4.0, after apache-2.0' in preview.stdout, preview
    done = driver.push(export_dir, '--repo-id', 'me/x', '--replace-card')
    assert done.code == 0 and 'before cc-by-nc-4.0, after apache-2.0' in done.stdout, done
    assert hub.files('me/x') == contents(export_dir, 'me/x')


@pytest.mark.parametrize('edit', [lambda text: text + b'\nMore.\n', lambda text: text.replace(b'apache-2.0', b'mit'),
                                  lambda text: b'\xff\xfe' + text, lambda text: text + b'x' * 1_000_001])
def test_a_generated_card_that_was_edited_on_the_hub_stays(hub, driver, export_dir, tmp_path, edit):
    new = make_export(tmp_path / 'new', seed=1)
    edited = edit(contents(export_dir, 'me/x')['README.md'])
    hub.add_repo('me/x', {**contents(export_dir, 'me/x'), 'README.md': edited})
    preview = driver.push(new, '--repo-id', 'me/x', '--dry-run')
    assert preview.code == 0 and 'by hand and stays' in preview.stdout, preview
    assert 'replace  model.safetensors' in preview.stdout and 'replace  README.md' not in preview.stdout


def test_a_generated_card_is_replaced_whatever_repository_it_names(hub, driver, export_dir, tmp_path):
    new = make_export(tmp_path / 'new', seed=1)
    hub.add_repo('me/renamed', contents(export_dir, 'me/before'))
    preview = driver.push(new, '--repo-id', 'me/renamed', '--dry-run')
    assert preview.code == 0 and 'replace  README.md' in preview.stdout and 'stays' not in preview.stdout, preview


def test_a_card_without_license_or_that_does_not_parse(hub, driver, export_dir):
    for text, said in ((b'# hello\n', 'before none, after none'), (b'---\nlicense: [mit\n---\n', 'before none'),
                       (b'---\nlicense: [mit]\n---\n', 'before none')):
        hub.store.repos.clear()
        hub.add_repo('me/x', {'README.md': text})
        preview = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run')
        assert preview.code == 0 and said in preview.stdout and 'stays' in preview.stdout, preview


def test_only_what_the_export_made_goes_up_and_what_is_included(hub, driver, export_dir):
    (export_dir / 'secrets.txt').write_text('password')
    (export_dir / 'figures').mkdir()
    (export_dir / 'figures' / 'a.svg').write_text('<svg/>')
    (export_dir / '.env').write_text('TOKEN')
    made = contents(shutil.copytree(export_dir, export_dir.parent / 'plain', ignore=shutil.ignore_patterns(
        'secrets.txt', 'figures', '.env')), 'me/x')
    preview = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run')
    assert 'no export made figures/a.svg, secrets.txt, so it stays here; --include' in preview.stdout, preview
    done = driver.push(export_dir, '--repo-id', 'me/x', '--include', 'figures/*.svg')
    assert done.code == 0 and 'no export made secrets.txt' in done.stdout, done
    assert hub.files('me/x') == {**made, 'figures/a.svg': b'<svg/>'}
    driver.push(export_dir, '--repo-id', 'me/x', '--include', '*.csv').fails(2, "--include '*.csv'", 'These are there')
    (export_dir / 'link').symlink_to('/etc/hostname')
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'link is a symbolic link')
    assert hub.count('POST', COMMIT) == 1


def test_private_is_checked_after_creation(hub, driver, export_dir, monkeypatch):
    create = hub.store.create
    monkeypatch.setattr(hub.store, 'create', lambda repo_id, private: create(repo_id, False))
    driver.push(export_dir, '--repo-id', 'lab/open', '--private').fails(
        1, f'{hub.url}/lab/open was created as public', 'nothing was uploaded')
    assert hub.files('lab/open') == {} and not hub.count('POST', '/preupload/') and not hub.count('PUT', '.')


def test_an_edited_card_here_goes_up_and_is_named(hub, driver, export_dir):
    card = export_dir / 'README.md'
    card.write_text(card.read_text() + '\nMy words.\n')
    before = {path.name: path.read_bytes() for path in export_dir.iterdir()}
    done = driver.push(export_dir, '--repo-id', 'me/x')
    assert done.code == 0 and 'note: README.md was edited since the export' in done.stdout, done
    assert b'My words.' in hub.files('me/x')['README.md'] and b"hf-hub:me/x'" in hub.files('me/x')['README.md']
    assert {path.name: path.read_bytes() for path in export_dir.iterdir()} == before


@pytest.mark.parametrize('what', ['labels', 'mean', 'bit'])
def test_what_was_tampered_with_is_not_pushed(hub, driver, export_dir, what):
    config = json.loads((export_dir / 'config.json').read_text())
    if what == 'labels':
        config['label_names'][:2] = config['label_names'][1::-1]
    if what == 'mean':
        config['pretrained_cfg']['mean'] = [0.5, 0.5, 0.5]
    (export_dir / 'config.json').write_text(json.dumps(config, indent=2) + ('\n' if what == 'bit' else ''))
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'config.json')
    assert not hub.requests
