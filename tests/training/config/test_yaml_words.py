"""YAML as a user writes it."""
import pytest
import yaml

from iebn_zoo.training.config.yaml_words import UniqueKeyLoader, Word, WordLoader, plain_values, read_error


def load(text):
    return yaml.load(text, Loader=WordLoader)


def test_what_has_no_quotes_is_the_word_that_stands_there():
    found = load('a: 010\nb: [1:30, 1e-4, yes, "3"]\nc: ~\nd: 2024-01-01\ne:\n')
    assert found == {'a': '010', 'b': ['1:30', '1e-4', 'yes', '3'], 'c': None, 'd': '2024-01-01', 'e': None}
    assert repr(found['b']) == "[1:30, 1e-4, yes, '3']"
    assert [isinstance(v, Word) for v in found['b']] == [True, True, True, False]


def test_plain_values_are_those_of_the_command_line_and_yamls_truth_values():
    found = plain_values(load('{a: 1e-4, b: [3, 0.5, off, text], c: {d: "3", e: null, 1: x}}'))
    assert found == {'a': 1e-4, 'b': [3, 0.5, False, 'text'], 'c': {'d': '3', 'e': None, '1': 'x'}}
    assert type(found['b'][3]) is str


@pytest.mark.parametrize('loader', [UniqueKeyLoader, WordLoader])
@pytest.mark.parametrize('text, line', [('a: 1\nb: 2\na: 3', 3), ('a: {b: 1, b: 1}', 1), ('- a: 1\n  a: 2', 2)])
def test_a_key_that_is_given_twice_is_refused(loader, text, line):
    with pytest.raises(yaml.YAMLError) as e:
        yaml.load(text, Loader=loader)
    assert read_error(e.value) == f'{"b" if "b: 1" in text else "a"} is given twice (line {line})'


def test_a_merged_mapping_may_be_replaced():
    assert load('- &base {lr: 1, b: 2}\n- {<<: *base, lr: 3}')[1] == {'lr': '3', 'b': '2'}
    nested = load('a: &a {lr: 1}\nb: {c: &c {<<: *a, lr: 2}}\nd: {<<: *c}')  # d is made before c
    assert nested['b']['c'] == nested['d'] == {'lr': '2'}


def test_an_error_without_a_place_is_told_by_its_first_line():
    assert read_error(OSError(21, 'Is a directory')) == '[Errno 21] Is a directory'
    assert read_error(RecursionError()) == 'RecursionError'
