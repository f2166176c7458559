import pytest

from iebn_zoo.util.errors import first_line, kind_and_line


@pytest.mark.parametrize('error, line, both', [
    (ValueError('\n  a\nb'), 'a', 'ValueError: a'), (KeyError(), 'KeyError', 'KeyError'),
    (OSError('x' * 400), 'x' * 297 + '...', f"OSError: {'x' * 157}...")])
def test_an_error_of_another_library_in_one_line(error, line, both):
    assert first_line(error) == line and kind_and_line(error) == both
