"""The last line of a card: an edit is seen, the repository's name is no edit."""
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iebn_zoo.hub.card.mark import card_digest, is_generated, with_mark, with_repo_id

BODY = """---
license: mit
---

# A model

    train.py --model hf-hub:{start}
    timm.create_model('hf-hub:{own}', pretrained=True)
    repo_id = '{own}'
    timm.create_model('hf-hub:{own}', pretrained=True, num_classes=0)
"""


def card(own='OWNER/NAME', start='me/start'):
    return with_mark(BODY.format(own=own, start=start), None if own == 'OWNER/NAME' else own)


@pytest.mark.parametrize('own', ['OWNER/NAME', 'me/first', 'me/start'])
def test_only_the_snippets_name_another_repository(own):
    named = with_repo_id(card(own), 'lab/second')
    assert named == card('lab/second') and is_generated(named) and is_generated(card(own))
    assert "hf-hub:lab/second'" in named and "repo_id = 'lab/second'" in named and '--model hf-hub:me/start' in named
    assert with_repo_id(named, own) == card(own) and card_digest(named) == card_digest(card())


def test_a_card_without_the_line_gets_its_placeholder_filled():
    old = BODY.format(own='OWNER/NAME', start='me/start')
    assert with_repo_id(old, 'me/x') == BODY.format(own='me/x', start='me/start') and not is_generated(old)


@pytest.mark.parametrize('edit', [
    lambda text: text + '\nMore about it.\n', lambda text: 'Hello\n' + text, lambda text: text.replace('mit', 'gpl'),
    lambda text: text.replace('# A model', '# The model'), lambda text: text.replace("'hf-hub:OWNER/NAME'", "'x'", 1),
    lambda text: text.rsplit('<!--', 1)[0], lambda text: text.replace('card of OWNER/NAME', 'card of me/y'),
    lambda text: text.replace('sha256 ', 'sha256 0')[:-1],
])
def test_an_edit_is_seen(edit):
    edited = edit(card())
    assert edited != card() and not is_generated(edited) and card_digest(edited) != card_digest(card())


def test_an_edited_card_still_gets_the_name():
    text = with_repo_id('Hello\n' + card('me/first') + '\nBye\n', 'me/second')
    assert "hf-hub:me/second'" in text and "hf-hub:me/first'" not in text and not is_generated(text)
    assert text.startswith('Hello\n') and text.endswith('\nBye\n')


def test_other_white_space_before_the_mark_is_an_edit():
    for odd in ('\v', '\f', ' '):
        edited = card().replace('\n\n<!--', f'\n{odd}<!--')
        assert edited != card() and not is_generated(edited) and card_digest(edited) != card_digest(card())


def test_line_ends_are_no_edit():
    assert is_generated(card().replace('\n', '\r\n')) and is_generated(card() + '\n')


@given(st.text())
def test_any_text_is_a_card(text):
    assert with_repo_id(with_repo_id(text, 'me/a'), 'me/b') is not None and not is_generated(text)
    marked = with_mark(text + BODY.format(own='me/a', start='me/a'), 'me/a')
    assert is_generated(with_repo_id(marked, 'me/b'))


@pytest.mark.parametrize('seed', range(8))
def test_every_bit_counts(seed):
    rng, text = random.Random(seed), card().encode()
    for _ in range(200):
        changed = bytearray(text)
        changed[rng.randrange(len(changed) - 1)] ^= 1 << rng.randrange(8)
        try:
            flipped = changed.decode()
        except UnicodeDecodeError:
            continue
        assert card_digest(flipped) != card_digest(card()), flipped
