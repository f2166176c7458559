"""The mutation run at a reduced count, and that it finds what it looks for when a check is taken away."""
import json

import pytest
import torch

from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights import file, fit, open, tensors
from tests.weights import mutation_cases, mutations
from tests.weights.mutations import CASES, run

PATIENCE = 300.  # seconds: a loaded machine is no hang


def test_no_mutation_is_a_finding():
    outcomes, findings = run(80, seed=1, limit=PATIENCE)
    assert not findings, '\n'.join(findings)
    assert {kind for kind, _ in outcomes} == {case.__name__ for case in CASES}
    for case in CASES:  # neither refuses all, nor takes all
        assert outcomes[case.__name__, 'refused'] and outcomes[case.__name__, 'opened'], outcomes


def kinds(findings):
    return {line.split(': ')[1] for line in findings}


@pytest.fixture
def only(monkeypatch):
    def choose(*cases):
        monkeypatch.setattr(mutations, 'CASES', cases)
    return choose


def test_a_reader_without_checksums_is_found_out(only, monkeypatch):
    only(mutation_cases.Ours)
    monkeypatch.setattr(file, 'verify', lambda content, path: content.pop('checksum', None))
    assert 'altered' in kinds(run(40, limit=PATIENCE)[1])


def test_a_reader_that_takes_any_number_is_found_out(only, monkeypatch):
    only(mutation_cases.Strangers, mutation_cases.Safetensors)
    for module in (file, fit, open):
        monkeypatch.setattr(module, 'check_tensors', lambda *args: None)
    assert 'impossible' in kinds(run(100, limit=PATIENCE)[1])


def test_a_reader_that_changes_weights_is_found_out(only, monkeypatch):
    only(mutation_cases.Safetensors)
    real = tensors.without_wrappers

    def rounded(state, source):
        return {k: v.half().float() if v.dtype == torch.float32 else v for k, v in real(state, source).items()}

    monkeypatch.setattr(file, 'without_wrappers', rounded)
    assert 'misread' in kinds(run(20, limit=PATIENCE)[1])


def test_a_crash_a_long_message_and_a_hang_are_found(only, monkeypatch):
    def crash(path):
        raise IndexError('no')

    def talk(path):
        raise IEBNZooError('\n'.join('abcde'))

    def wait(path):
        import time
        time.sleep(60)

    only(mutation_cases.Safetensors)
    for broken, kind in ((crash, 'crash'), (talk, 'message'), (wait, 'hang')):
        monkeypatch.setattr(mutation_cases, 'read_weights_file', broken)
        assert kind in kinds(run(2, limit=2. if broken is wait else PATIENCE)[1])


def test_a_changed_export_is_counted_and_a_blind_prover_is_named(only, monkeypatch):
    def blind(folder):
        json.loads((folder / 'config.json').read_text())

    only(mutation_cases.Export)
    monkeypatch.setattr(mutations, 'PROVERS', [blind])
    outcomes, findings = run(24, limit=PATIENCE)
    assert any('for verify' in what for _, what in outcomes)
    assert findings and all('blind did not find other' in line for line in findings)
