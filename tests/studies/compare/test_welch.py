import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from iebn_zoo.studies.compare.welch import contrast_interval, student_quantile, welch_interval

SAMPLES = st.lists(st.floats(0, 100), min_size=2, max_size=12)


@pytest.mark.parametrize('degrees', [1, 1.2, 1.9, 2, 2.5, 3, 4, 7.7, 30, 99.5, 100.5, 1000, 1e7])
@pytest.mark.parametrize('probability', [0.6, 0.9, 0.95, 0.975, 0.995])
def test_quantile(probability, degrees):
    assert student_quantile(probability, degrees) == pytest.approx(scipy.stats.t.ppf(probability, degrees), rel=1e-6)


def test_the_median_is_zero():
    assert student_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize('probability, degrees', [
    (0.4, 3), (1.0, 3), (float('nan'), 3), (0.9, 0.5), (0.9, float('nan'))])
def test_out_of_range_is_an_error(probability, degrees):
    with pytest.raises(ValueError, match='expected'):
        student_quantile(probability, degrees)


@given(SAMPLES, SAMPLES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_is_scipys(sample, baseline, confidence):
    assume(max(map(scipy.stats.tstd, (sample, baseline))) > 1e-3)
    found = welch_interval(sample, baseline, confidence)
    expected = scipy.stats.ttest_ind(sample, baseline, equal_var=False).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-5, abs=1e-9)
    assert found.low <= found.difference <= found.high
    assert found.excludes_zero == (found.low > 0 or found.high < 0)


@given(SAMPLES, SAMPLES, SAMPLES, SAMPLES)
def test_a_difference_of_differences(a, b, c, d):
    assume(max(map(scipy.stats.tstd, (a, b, c, d))) > 1e-3)
    found = contrast_interval([(1, a), (-1, b), (-1, c), (1, d)])
    errors = [scipy.stats.sem(values) ** 2 for values in (a, b, c, d)]  # Welch and Satterthwaite, several samples
    degrees = sum(errors) ** 2 / sum(e ** 2 / (len(v) - 1) for e, v in zip(errors, (a, b, c, d), strict=True))
    middle = float(np.mean(a) - np.mean(b) - (np.mean(c) - np.mean(d)))
    expected = scipy.stats.t.interval(0.95, degrees, middle, np.sqrt(sum(errors)))
    assert (found.difference, found.low, found.high) == pytest.approx((middle, *expected), rel=1e-5, abs=1e-6)
    doubled = contrast_interval([(2, a), (-2, b)])
    single = welch_interval(a, b)
    if single is not None:
        assert tuple(doubled) == pytest.approx(tuple(2 * value for value in single), abs=1e-9)


@pytest.mark.parametrize('sample, baseline', [([1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_without_spread_there_is_no_interval(sample, baseline):
    assert welch_interval(sample, baseline) is None
