"""push_to_hub with the real client over HTTP, against the loopback Hub: what arrives, and what every refusal says."""
import importlib.util
import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from huggingface_hub import hf_hub_download

from tests.support.hub.driver import ROOT, Driver, Outcome
from tests.support.hub.exported import bind_files, make_export
from tests.support.hub.loopback import READ_TOKEN, WRITE_TOKEN, LoopbackHub

pytestmark = pytest.mark.usefixtures('warm_python')

COMMIT = '/api/models/.*/commit/'
CREATE = '/api/repos/create'
LOAD = '''
import sys, safetensors.torch, timm, torch, iebn_zoo
golden = safetensors.torch.load_file(sys.argv[1])
model = timm.create_model('hf-hub:me/x', pretrained=True).eval()
with torch.inference_mode():
    print((model(golden['input']) - golden['logits']).abs().max().item(), model.pretrained_cfg['label_names'])
    for kwargs in ({'num_classes': 0}, {'features_only': True}):  # config.json says the classes at its top alone
        out = timm.create_model('hf-hub:me/x', pretrained=True, **kwargs).eval()(golden['input'])
        print(out.shape if kwargs.get('num_classes') == 0 else [f.shape[1] for f in out])
'''


def contents(directory, repo_id='OWNER/NAME'):
    """The files of an export, with the card that names ``repo_id``."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    return {**files, 'README.md': files['README.md'].replace(b'OWNER/NAME', repo_id.encode())}


def writes(hub):
    """Requests that could have changed something on the Hub."""
    reads = ('/paths-info/', '/api/validate-yaml')
    return [r for r in hub.requests if r.method not in ('GET', 'HEAD') and not any(part in r.path for part in reads)]


def test_script_pushes_and_timm_loads_it(hub, export_dir, tmp_path, monkeypatch):
    for name, value in {**hub.env(tmp_path / 'home', WRITE_TOKEN), 'OMP_NUM_THREADS': '1'}.items():
        monkeypatch.setenv(name, value)
    script = [sys.executable, str(ROOT / 'scripts' / 'push_to_hub.py'), str(export_dir), '--repo-id', 'me/x']
    done = subprocess.run(script, capture_output=True, text=True, timeout=600)
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert outcome.code == 0 and 'it/s' not in outcome.stderr, outcome  # no progress bars without a terminal
    assert hub.files('me/x') == contents(export_dir, 'me/x') != contents(export_dir)
    assert hub.count('POST', COMMIT) == 1 and hub.count('POST', CREATE) == 1
    assert len(hub.commits('me/x')) == 2 and not hub.store.repos['me/x'].private
    head = hub.commits('me/x')[-1]
    assert head.parent == hub.commits('me/x')[0].oid and 'iebn_resnet20_cifar' in head.title
    assert head.oid in outcome.stdout and 'hf-hub:me/x' in outcome.stdout
    # verification asked for that very commit, not for a branch that may have moved
    assert hub.count('GET', f'/me/x/resolve/{head.oid}/model.safetensors') == 1
    assert 'license on the card: apache-2.0' in outcome.stdout

    monkeypatch.delenv('HF_TOKEN')
    loaded = subprocess.run([sys.executable, '-c', LOAD, str(export_dir / 'golden.safetensors')], capture_output=True,
                            text=True, timeout=600, env=None)
    assert loaded.returncode == 0, loaded.stderr
    difference, labels = loaded.stdout.split(' ', 1)
    assert float(difference) <= 1e-5 and 'class 3' in labels
    assert 'torch.Size([2, 64])' in labels and '[16, 16, 32, 64]' in labels


def test_second_push_replaces_in_one_commit(hub, driver, tmp_path, export_dir):
    old = {**contents(export_dir), 'pytorch_model.bin': b'old', 'model-00001-of-00002.safetensors': b'old',
           'notes.txt': b'mine', 'optimizer.bin': b'mine'}
    before = hub.add_repo('me/x', old)
    new = make_export(tmp_path / 'new', seed=1)
    outcome = driver.push(new, '--repo-id', 'me/x', '--commit-message', 'better')
    assert outcome.code == 0, outcome
    assert hub.files('me/x') == {**contents(new, 'me/x'), 'notes.txt': b'mine', 'optimizer.bin': b'mine'}
    assert all(contents(new)[name] != old[name] for name in ('README.md', 'model.safetensors', 'golden.safetensors'))
    head = hub.commits('me/x')[-1]
    assert head.parent == before.oid and head.title == 'better' and hub.count('POST', COMMIT) == 1
    assert not hub.count('POST', CREATE)
    assert 'deleted  pytorch_model.bin' in outcome.stdout and 'replaced  model.safetensors' in outcome.stdout


def test_reports_of_the_replaced_weights_are_deleted(hub, driver, tmp_path, export_dir):
    reports = {'evaluation.json': b'{"top1_count": 7}', 'gates.png': b'old', 'fold_report.json': b'{}'}
    for name, content in reports.items():
        (export_dir / name).write_bytes(content)
    bind_files(export_dir)
    # no golden.safetensors binds fold_report.csv and notes.txt, so somebody else put them there
    mine = {'fold_report.csv': b'mine', 'notes.txt': b'mine'}
    hub.add_repo('me/x', {**contents(export_dir, 'me/x'), **mine})
    new = make_export(tmp_path / 'new', seed=1)
    (new / 'curves.png').unlink()
    bind_files(new)
    gone = ['curves.png', *reports]
    preview = driver.push(new, '--repo-id', 'me/x', '--dry-run')
    assert preview.code == 0 and all(f'delete  {name}' in preview.stdout for name in gone), preview
    assert not any(name in preview.stdout for name in mine) and not writes(hub)
    outcome = driver.push(new, '--repo-id', 'me/x')
    assert outcome.code == 0 and all(f'deleted  {name}' in outcome.stdout for name in gone), outcome
    assert hub.files('me/x') == {**contents(new, 'me/x'), **mine}

    again = driver.push(new, '--repo-id', 'me/x')
    assert again.code == 0 and 'no new commit' in again.stdout and 'deleted' not in again.stdout, again


@pytest.mark.parametrize('golden', [b'no safetensors', None])
def test_reports_that_no_export_is_known_to_have_made_stay(hub, driver, export_dir, golden):
    theirs = {'evaluation.json': b'{}', 'gates.png': b'theirs'}
    hub.add_repo('me/x', {**theirs, **({'golden.safetensors': golden} if golden else {})})
    outcome = driver.push(export_dir, '--repo-id', 'me/x')
    assert outcome.code == 0 and 'deleted' not in outcome.stdout, outcome
    assert hub.files('me/x') == {**contents(export_dir, 'me/x'), **theirs}


def test_private_repository_and_unchanged_push(hub, driver, export_dir):
    outcome = driver.push(export_dir, '--repo-id', 'lab/x', '--private')
    assert outcome.code == 0 and 'private' in outcome.stdout, outcome
    assert hub.store.repos['lab/x'].private and hub.files('lab/x') == contents(export_dir, 'lab/x')
    served = [r for r in hub.requests if '/resolve/' in r.path]
    assert served and all(r.authorized and r.status < 400 for r in served)

    again = driver.push(export_dir, '--repo-id', 'lab/x', '--private')
    assert again.code == 0 and 'no new commit' in again.stdout, again
    assert len(hub.commits('lab/x')) == 2 and hub.count('POST', COMMIT) == 1


def test_pull_request_to_a_repository_of_others(hub, driver, export_dir):
    before = hub.add_repo('other/x', {'README.md': b'theirs', 'pytorch_model.bin': b'theirs'})
    driver.push(export_dir, '--repo-id', 'other/x').fails(1, 'no write access to other/x', '--create-pr')
    outcome = driver.push(export_dir, '--repo-id', 'other/x', '--create-pr')
    assert outcome.code == 0, outcome
    assert f'{hub.url}/other/x/discussions/1' in outcome.stdout
    assert hub.commits('other/x')[-1] == before, 'main must not move'
    assert hub.files('other/x', 'refs/pr/1') == {**contents(export_dir), 'README.md': b'theirs'}
    assert 'by hand and stays' in outcome.stdout
    head = hub.commits('other/x', 'refs/pr/1')[-1]
    assert head.parent == before.oid and hub.count('GET', f'/resolve/{head.oid}/') > 0
    assert f"hf-hub:other/x@{head.oid}" in outcome.stdout


def test_dry_run_writes_nothing(hub, driver, export_dir):
    hub.add_repo('me/x', {'pytorch_model.bin': b'old', 'notes.txt': b'mine'})
    outcome = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run')
    assert outcome.code == 0 and f'{hub.url}/me/x (public)' in outcome.stdout, outcome
    assert 'delete  pytorch_model.bin' in outcome.stdout and 'notes.txt' not in outcome.stdout
    for path, content in contents(export_dir).items():
        line = next(line for line in outcome.stdout.splitlines() if line.endswith(f'  {path}'))
        shown, unit = line.split()[:2]
        assert abs(float(shown) * {'B': 1, 'kB': 1e3, 'MB': 1e6}[unit] - len(content)) <= 0.06 * len(content)

    fresh = driver.push(export_dir, '--repo-id', 'me/new', '--dry-run', '--private')
    assert fresh.code == 0 and 'me/new (new, private)' in fresh.stdout
    anonymous = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run', token=None)
    assert anonymous.code == 0 and 'no token' in anonymous.stdout and 'delete  pytorch_model.bin' in anonymous.stdout
    hub.fail('GET', '/api/whoami-v2', 503, times=99)
    down = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run')
    assert down.code == 0 and 'could not be asked' in down.stdout and '503' in down.stdout
    hub.heal()
    driver.push(export_dir, '--repo-id', 'me/x', '--dry-run', token=READ_TOKEN).fails(1, 'can only read')
    assert not writes(hub) and 'me/new' not in hub.store.repos


@pytest.mark.parametrize(('token', 'words'), [
    (None, ('no token', 'HF_TOKEN', 'hf auth login')),
    ('', ('no token', 'HF_TOKEN')),
    (READ_TOKEN, ('no write access to me/x', 'can only read')),
    ('hf_nobodyKnowsThisToken', ('does not know this token', 'HF_TOKEN')),
    ('hf_nobodyKnowsThisToken\u00e9', ('characters that no token has', 'HF_TOKEN')),
])
def test_tokens_that_do_not_do(hub, driver, export_dir, token, words):
    driver.push(export_dir, '--repo-id', 'me/x', token=token).fails(1, *words)
    assert not writes(hub)


def test_token_is_no_argument(hub, driver, export_dir):
    for argument in (('--token', WRITE_TOKEN), (f'--token={WRITE_TOKEN}',), (f'--hf_token={WRITE_TOKEN}',)):
        driver.push(export_dir, '--repo-id', 'me/x', *argument).fails(2, 'does not belong on the command line')
    assert not hub.requests


@pytest.mark.parametrize(('argv', 'words'), [
    (('{export}', '--repo-id', 'x'), ("'x' is not a repository id", 'OWNER/NAME')),
    (('{export}', '--repo-id', 'a/b/c'), ("'a/b/c' is not a repository id",)),
    (('{export}', '--repo-id', 'me/x--y'), ('is not a repository id',)),
    (('{export}/no', '--repo-id', 'me/x'), ('/no is not a directory', 'export')),
    (('{export}/README.md', '--repo-id', 'me/x'), ('README.md is not a directory',)),
    (('{export}', '--repo-id', 'me/x', '--create-pr'), ('me/x does not exist', '--create-pr')),
    (('{export}', '--repo-id', 'me/public', '--private'), ('me/public exists and is public', '--private')),
])
def test_usage_errors(hub, driver, export_dir, argv, words):
    hub.add_repo('me/public', {})
    driver.push(*(a.format(export=export_dir) for a in argv)).fails(2, *words)
    assert not writes(hub)


def test_broken_directory_never_reaches_the_hub(hub, driver, export_dir):
    config = json.loads((export_dir / 'config.json').read_text())
    config['pretrained_cfg']['num_classes'] = 7
    (export_dir / 'config.json').write_text(json.dumps(config))
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'config.json: pretrained_cfg.num_classes is 7', 'Expected 4')
    (export_dir / 'golden.safetensors').unlink()
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'has no golden.safetensors')
    assert not hub.requests


def test_somebody_else_committed(hub, driver, export_dir):
    hub.add_repo('me/x', {'README.md': b'old'})
    theirs = []
    hub.before_commit = lambda: theirs.append(hub.commit('me/x', {'README.md': b'theirs'}))
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'somebody else has committed to me/x', 'run again')
    assert hub.commits('me/x')[-1] == theirs[0] and hub.files('me/x') == {'README.md': b'theirs'}
    assert hub.count('POST', COMMIT) == 1, 'a refused commit is not forced through'


def test_failed_commit_reports_the_repository_it_created(hub, driver, export_dir):
    hub.fail('POST', COMMIT, 500)
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, '500', 'me/x was created', 'push again')
    assert hub.files('me/x') == {} and hub.count('POST', COMMIT) == 1 and not hub.count('DELETE', '.')


def test_lost_upload_makes_no_commit(hub, driver, export_dir):
    hub.lfs_puts_to_drop = 99
    driver.push(export_dir, '--repo-id', 'me/x').fails(
        1, 'refused with 404 while uploading to me/x', 'never uploaded', 'me/x was created and is empty')
    assert hub.files('me/x') == {} and not hub.count('POST', COMMIT)


def test_card_the_hub_refuses_creates_nothing(hub, driver, export_dir):
    card = export_dir / 'README.md'
    card.write_text(card.read_text().replace('license: apache-2.0', 'license: my own words'))
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'README.md', '"license" must be one of')
    assert not writes(hub)


def test_no_right_on_the_namespace(hub, driver, export_dir):
    driver.push(export_dir, '--repo-id', 'other/new').fails(1, 'no write access to other/new', '403')
    assert 'other/new' not in hub.store.repos
    hub.add_repo('other/hidden', {}, private=True)
    driver.push(export_dir, '--repo-id', 'other/hidden').fails(1, 'no write access to other/hidden')


def test_server_that_echoes_the_token(hub, driver, export_dir):
    hub.fail('GET', '/api/whoami-v2', 400, message=f'cannot read Bearer {WRITE_TOKEN}')
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'refused with 400', 'Bearer <token>')


@pytest.mark.parametrize('path', ['/api/whoami-v2', '/api/models/me/x', CREATE])
def test_hub_that_does_not_answer(hub, driver, export_dir, path):
    hub.stall('POST' if path == CREATE else 'GET', path, seconds=20, times=99)
    driver.push(export_dir, '--repo-id', 'me/x', timeout=0.5).fails(1, f'{hub.url} did not answer in time', 'run again')
    assert not hub.count('POST', COMMIT)


def test_flipped_byte_on_the_way_back_is_named(hub, driver, export_dir):
    hub.corrupt('model.safetensors')
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'model.safetensors arrives with other bytes', 'push again')
    assert hub.files('me/x') == contents(export_dir, 'me/x'), 'what was committed is right, only the way back is not'


def test_verification_does_not_trust_the_cache(hub, driver, client_home, export_dir):
    head = hub.add_repo('me/cached', contents(export_dir, 'me/cached'))
    for path in contents(export_dir):
        hf_hub_download('me/cached', path, revision=head.oid, endpoint=hub.url, token=False,
                        cache_dir=client_home / 'hub')
    hub.corrupt('config.json', offset=0)
    driver.push(export_dir, '--repo-id', 'me/cached').fails(1, 'config.json arrives with other bytes')
    assert hub.commits('me/cached')[-1] == head


def test_other_content_in_the_commit_is_named(hub, driver, export_dir):
    def rot():
        (oid,) = [oid for oid, content in hub.store.lfs.items() if content == (export_dir / 'curves.png').read_bytes()]
        hub.store.lfs[oid] = hub.store.lfs[oid][::-1]

    hub.before_commit = rot
    driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'curves.png has the digest')
    hub.store.lfs.clear()
    hub.add_repo('me/ignores', {'.gitignore': b'*.csv\n'})
    driver.push(export_dir, '--repo-id', 'me/ignores').fails(1, 'summary.csv is missing in me/ignores')


def test_xet_and_network_failures_say_what_to_set(export_dir, tmp_path):
    if importlib.util.find_spec('hf_xet') is None:
        pytest.skip('hf_xet is not installed, so the client uploads by LFS')
    with LoopbackHub() as hub:
        driver = Driver({**hub.env(tmp_path), 'HF_HUB_DISABLE_XET': '0'})
        try:
            driver.push(export_dir, '--repo-id', 'me/x').fails(1, 'HF_HUB_DISABLE_XET=1', 'me/x was created')
            assert not hub.count('POST', COMMIT)
            hub.__exit__()
            outcome = driver.push(export_dir, '--repo-id', 'me/x')
            outcome.fails(1, f'cannot reach {hub.url} while logging in', 'HF_ENDPOINT')
            preview = driver.push(export_dir, '--repo-id', 'me/x', '--dry-run')
            assert preview.code == 0 and 'could not be asked' in preview.stdout, preview
        finally:
            driver.close()


def test_golden_of_the_fixture_depends_on_every_gate(export_dir):
    """The export under test must be able to tell IEBN weights from ones that lost their gates."""
    golden = safetensors.torch.load_file(export_dir / 'golden.safetensors')
    assert golden['logits'].shape == (2, 4) and not torch.allclose(golden['logits'][0], golden['logits'][1], atol=1e-3)
    weights = safetensors.torch.load_file(export_dir / 'model.safetensors')
    assert any('gate_weight' in name and value.abs().max() > 0.1 for name, value in weights.items())


def test_the_card_on_the_hub_names_its_repository_and_the_one_here_none(hub, driver, export_dir):
    card = export_dir / 'README.md'
    text = card.read_text()
    for repo_id in ('me/first', 'me/second'):
        assert driver.push(export_dir, '--repo-id', repo_id).code == 0
        there = hub.files(repo_id)['README.md'].decode()
        assert f"create_model('hf-hub:{repo_id}'" in there and 'OWNER/NAME' not in there
        assert card.read_text() == text, 'the card of the export itself is never changed'
    card.write_text(text.replace('OWNER/NAME', 'me/first'))  # as export --repo-id me/first writes it
    assert driver.push(export_dir, '--repo-id', 'lab/third').code == 0
    there = hub.files('lab/third')['README.md'].decode()
    assert "create_model('hf-hub:lab/third'" in there and 'me/first' not in there
