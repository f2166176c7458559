"""What a push leaves behind when a request fails: the old state, the new one, or an empty repository that it names.

Every request of a push meets every fault, for a new and for an existing repository. The server is of this file alone:
a request that was given up may still be under way when the next test begins.
"""
import shutil
import time
import uuid

import pytest

from iebn_zoo.hub.push import deliver
from iebn_zoo.util.errors import IEBNZooError
from tests.hub.push.test_push import contents
from tests.support.hub.driver import Driver
from tests.support.hub.exported import edit_golden, make_export
from tests.support.hub.loopback import LoopbackHub

pytestmark = pytest.mark.usefixtures('warm_python')

STATUSES = (401, 403, 404, 409, 412, 422, 429, 500, 503)
FAULTS = (*STATUSES, 'reset', 'half', 'hang')
SAID_ALIKE = (403, 409, 422, 503)  # as 401, 412, 404 and 500 are; a new repository meets them all
INFO, DIGESTS = r'/api/models/\w+/[\w-]+(\?|$)', '/paths-info/'
COMMIT, CREATE = '/api/models/.*/commit/', '/api/repos/create'
BOTH = {
    'who am I': ('GET', '/api/whoami-v2'),
    'what is there': ('GET', INFO),
    'is the card right': ('POST', '/api/validate-yaml'),
    'how to upload': ('POST', '/preupload/'),
    'where to upload': ('POST', '/info/lfs/objects/batch'),
    'upload': ('PUT', '/lfs/'),
    'did it arrive': ('POST', '/info/lfs/objects/verify'),
    'commit': ('POST', COMMIT),
}
NEW = {**BOTH, 'create': ('POST', CREATE)}
OLD = {**BOTH, 'which digests are there': ('POST', DIGESTS), 'which card is there': ('GET', '/resolve/.*README.md')}
AFTER_CREATION = ('how to upload', 'where to upload', 'upload', 'did it arrive', 'commit')
PATIENT = 3.0  # where the fault is to be met, however busy the machine
LIMIT = 0.4  # seconds for a request, where 120 are usual: what hangs is given up, and repetitions come to an end


@pytest.fixture(scope='module')
def served():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope='module')
def pusher(served, tmp_path_factory):
    process = Driver(served.env(tmp_path_factory.mktemp('home')))
    yield process
    process.close()


@pytest.fixture(scope='module')
def _small(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp('small'), layers=[1, 1, 1], channels=[4, 4, 4])


@pytest.fixture
def small(_small, tmp_path):
    """A small network, with a file that no test before has uploaded: what was, is not uploaded again."""
    directory = shutil.copytree(_small, tmp_path / 'small')
    with open(directory / 'curves.png', 'ab') as file:
        file.write(uuid.uuid4().bytes)
    edit_golden(directory)
    return directory


@pytest.fixture
def hub(served):
    yield served
    served.heal()


_names = iter(range(10_000))


def inject(hub, method, pattern, fault, times=99, done=False):
    if isinstance(fault, int):
        hub.fail(method, pattern, fault, times=times)
    else:
        hub.spoil(method, pattern, fault, done=done, times=times, seconds=5)


@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.parametrize('request_', NEW)
def test_a_new_repository_is_not_there_or_empty_and_named(hub, pusher, small, request_, fault):
    repo_id = f'me/new-{next(_names)}'
    inject(hub, *NEW[request_], fault)
    outcome = pusher.push(small, '--repo-id', repo_id, timeout=LIMIT)
    outcome.fails(1)
    assert repo_id in outcome.stderr or hub.url in outcome.stderr
    hub.heal()
    there = repo_id in hub.store.repos
    if there:
        assert hub.files(repo_id) == {} and len(hub.commits(repo_id)) == 1
    assert (f'{hub.url}/{repo_id} was created and is empty' in outcome.stderr) == there, outcome
    if 'in time' not in outcome.stderr:  # on a busy machine another request may be the one that takes too long
        assert there == (request_ in AFTER_CREATION)


@pytest.mark.parametrize(('request_', 'fault'), [
    (request, fault) for request in OLD for fault in FAULTS if not (request in BOTH and fault in SAID_ALIKE)])
def test_an_existing_repository_is_as_it_was(hub, pusher, small, request_, fault):
    repo_id = f'me/old-{next(_names)}'
    before = hub.add_repo(repo_id, {'README.md': b'# mine\n', 'model.safetensors': b'old', 'config.json': b'{}'})
    inject(hub, *OLD[request_], fault)
    outcome = pusher.push(small, '--repo-id', repo_id, '--replace-card', timeout=LIMIT)
    outcome.fails(1)
    assert repo_id in outcome.stderr or hub.url in outcome.stderr
    assert hub.commits(repo_id)[-1] == before and len(hub.store.repos[repo_id].refs) == 1
    assert 'is empty' not in outcome.stderr
    if request_ in AFTER_CREATION and 'in time' not in outcome.stderr:
        assert f'Nothing was committed to {repo_id}' in outcome.stderr, outcome


def test_412_names_what_it_is(hub, pusher, small):
    before = hub.add_repo('me/condition', {'README.md': b'# mine\n'})
    hub.fail('POST', COMMIT, 412, 'the moon is full')
    pusher.push(small, '--repo-id', 'me/condition').fails(
        1, 'refused with 412 (precondition failed)', 'the moon is full', 'Nothing was committed')
    hub.fail('GET', '/api/whoami-v2', 412)
    outcome = pusher.push(small, '--repo-id', 'me/condition')
    outcome.fails(1, 'refused with 412 (precondition failed) while logging in')
    assert 'somebody' not in outcome.stderr and hub.commits('me/condition')[-1] == before
    hub.before_commit = lambda: hub.commit('me/condition', {'a.txt': b'a'})
    pusher.push(small, '--repo-id', 'me/condition').fails(1, 'somebody else has committed to me/condition', '412')


# an answer that is lost on its way back: the request was carried out

@pytest.mark.parametrize('fault', ['reset', 'half', 'hang'])
def test_a_creation_whose_answer_was_lost_goes_on(hub, pusher, small, fault):
    repo_id = f'me/created-{fault}'
    hub.spoil('POST', CREATE, fault, done=True)
    outcome = pusher.push(small, '--repo-id', repo_id, '--private', timeout=5)
    assert outcome.code == 0 and hub.files(repo_id) == contents(small, repo_id), outcome
    assert hub.store.repos[repo_id].private and hub.count('POST', CREATE) == 1


@pytest.mark.parametrize(('fault', 'existing', 'more'), [
    ('reset', True, ()), ('half', False, ()), ('hang', True, ()), ('half', True, ('--create-pr',)),
])
def test_a_commit_whose_answer_was_lost_is_found(hub, pusher, small, fault, existing, more):
    repo_id = f'me/committed-{fault}-{int(existing)}-{len(more)}'
    before = hub.add_repo(repo_id, {'pytorch_model.bin': b'old'}) if existing else None
    hub.spoil('POST', COMMIT, fault, done=True)
    outcome = pusher.push(small, '--repo-id', repo_id, *more, timeout=5)
    revision = 'refs/pr/1' if more else 'main'
    assert outcome.code == 0 and hub.files(repo_id, revision) == contents(small, repo_id), outcome
    head = hub.commits(repo_id, revision)[-1]
    assert f'commit {head.oid}' in outcome.stdout and hub.count('POST', COMMIT) == 1
    assert before is None or head.parent == before.oid
    if more:
        assert f'{hub.url}/{repo_id}/discussions/1' in outcome.stdout and hub.commits(repo_id)[-1] == before


def test_a_lost_answer_that_cannot_be_looked_up_is_told_so(hub, pusher, small):
    hub.add_repo('me/dark', {'a.txt': b'a'})
    hub.spoil('POST', COMMIT, 'half', done=True)
    hub.before_commit = lambda: hub.fail('GET', INFO, 503, times=99)
    pusher.push(small, '--repo-id', 'me/dark', timeout=PATIENT).fails(
        1, 'broke off its answer', 'Whether the commit was made is not known', '/me/dark/commits/main')
    hub.heal()
    hub.spoil('POST', CREATE, 'half', done=True)
    create = hub.store.create

    def create_and_fail(repo_id, private):
        hub.fail('GET', INFO, 503, times=99)
        return create(repo_id, private)

    hub.store.create = create_and_fail
    try:
        pusher.push(small, '--repo-id', 'me/dark-new', timeout=PATIENT).fails(1, 'may have been created', 'look there')
    finally:
        hub.store.create = create


def test_somebody_elses_commit_is_not_taken_for_the_lost_one(hub, pusher, small):
    hub.add_repo('me/both', {'a.txt': b'a'})
    hub.spoil('POST', COMMIT, 'reset', done=False)
    fail = hub.spoiled

    def and_somebody_commits(handler):
        found = fail(handler)
        if found is not None:
            hub.commit('me/both', {'a.txt': b'theirs'})
        return found

    hub.spoiled = and_somebody_commits
    try:
        pusher.push(small, '--repo-id', 'me/both', timeout=PATIENT).fails(1, 'Whether the commit was made is not known')
    finally:
        del hub.spoiled
    assert hub.files('me/both') == {'a.txt': b'theirs'}


# after the commit: reads are repeated, and what is said of a commit that could not be read back is true

READS = {
    'what is there': ('GET', INFO.replace('(', '(/revision/.*|')),
    'which digests are there': ('POST', DIGESTS),
    'the head of a file': ('HEAD', '/resolve/.*/model.safetensors'),
    'a file': ('GET', '/resolve/.*/model.safetensors'),
}


# an answer to HEAD has no body of which half could be lost
READ_FAULTS = [(read, fault) for read in READS for fault in FAULTS if (read, fault) != ('the head of a file', 'half')]


@pytest.mark.parametrize(('read', 'fault'), [pair for pair in READ_FAULTS if pair[1] not in STATUSES[:6]])
def test_a_read_that_fails_once_is_repeated(hub, pusher, small, read, fault):
    repo_id = f'me/read-{next(_names)}'
    hub.add_repo(repo_id, contents(small, repo_id))
    method, pattern = READS[read]
    inject(hub, method, pattern, fault, times=1)
    outcome = pusher.verify(repo_id, timeout=8)
    assert outcome.code == 0, outcome
    assert hub.count(method, pattern) >= 2


@pytest.mark.parametrize(('read', 'fault'), READ_FAULTS)
def test_a_read_that_keeps_failing_is_a_message(hub, pusher, small, read, fault):
    repo_id = f'me/read-{next(_names)}'
    hub.add_repo(repo_id, contents(small, repo_id))
    inject(hub, *READS[read], fault)
    pusher.verify(repo_id, timeout=LIMIT).fails(1)


@pytest.mark.parametrize('fault', [403, 503, 'reset', 'hang'])
def test_a_commit_that_cannot_be_read_back_is_named(hub, pusher, small, fault):
    repo_id = f'me/after-{next(_names)}'
    hub.before_commit = lambda: inject(hub, 'POST', DIGESTS, fault)
    outcome = pusher.push(small, '--repo-id', repo_id, timeout=PATIENT)
    head = hub.commits(repo_id)[-1]
    outcome.fails(1, f'Commit {head.oid[:12]} was made, but is not verified')
    assert hub.files(repo_id) == contents(small, repo_id)


def test_the_fresh_process_repeats_too_and_its_failure_is_named(hub, pusher, small):
    hub.fail('GET', '/resolve/.*/config.json', 503)
    hub.spoil('GET', '/resolve/.*/model.safetensors', 'half', done=True)
    outcome = pusher.push(small, '--repo-id', 'me/again')
    assert outcome.code == 0 and hub.count('GET', '/resolve/.*/config.json') == 2, outcome
    hub.heal()
    hub.fail('GET', '/resolve/.*/config.json', 503, times=99)
    outcome = pusher.push(small, '--repo-id', 'me/never', timeout=2)
    outcome.fails(1, f'Commit {hub.commits("me/never")[-1].oid[:12]} was made, but is not verified')


# the limit

def test_a_server_that_drips_is_not_waited_for(hub, pusher, small):
    """Between two bytes it is quick, so that no time-out of the HTTP client ends it."""
    hub.spoil('GET', '/api/whoami-v2', 'drip', done=True, seconds=300)
    pusher.push(small, '--repo-id', 'me/drip', timeout=LIMIT).fails(1, 'did not answer in time', 'run again')
    hub.heal()
    hub.add_repo('me/drip', contents(small, 'me/drip'))
    hub.spoil('GET', '/resolve/.*/model.safetensors', 'drip', done=True, seconds=300, times=99)
    pusher.verify('me/drip', timeout=LIMIT).fails(1, 'did not answer in time')


@pytest.mark.parametrize('value', ['0', '-1', 'soon', 'nan', 'inf'])
def test_a_limit_that_is_none_is_a_usage_error(hub, pusher, small, value):
    pusher.push(small, '--repo-id', 'me/x', timeout=value).fails(2, f'IEBN_ZOO_HUB_TIMEOUT is {value!r}', 'seconds')
    pusher.verify('me/x', timeout=value).fails(2, 'IEBN_ZOO_HUB_TIMEOUT')


def test_no_sum_of_tries_and_waits_is_longer_than_the_limit(monkeypatch):
    from iebn_zoo.hub.push import client, patience
    monkeypatch.delenv(patience.VARIABLE, raising=False)
    assert patience.limit() == 120
    now, waits = [0.0], []
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(time, 'sleep', lambda seconds: (waits.append(seconds), now.__setitem__(0, now[0] + seconds)))

    def slow():
        now[0] += patience.one_try()
        raise client.HubUnreachable('no answer')

    with pytest.raises(client.HubUnreachable):
        patience.patiently(slow, patience.limit(), client.HubUnreachable)
    assert now[0] <= 120 and waits == [1, 2, 4, 8, 8]


def test_a_password_in_the_address_of_the_hub_is_not_told(monkeypatch):
    class Api:
        endpoint, token = 'https://me:secret@hub.example', None

        def create_repo(self, *args, **kwargs):
            pass

    monkeypatch.setattr(deliver, 'look', lambda api, repo_id: None)
    with pytest.raises(IEBNZooError, match='https://hub.example says that it created me/a, and then') as e:
        deliver.create(Api(), 'me/a', False)
    assert 'secret' not in str(e.value)
