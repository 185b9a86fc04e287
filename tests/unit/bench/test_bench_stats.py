import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import Sample, confidence_of_largest, quantile, rate_bound

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(values=VALUES, level=st.floats(0.01, 1.0))
def test_quantile_is_a_measured_value_that_the_share_does_not_exceed(values, level):
    found = quantile(sorted(values), level)
    assert found in values
    assert sum(value <= found for value in values) >= level * len(values) - 1e-6
    assert sum(value < found for value in values) < level * len(values) + 1e-6


def test_p99_of_few_values_is_the_largest_and_says_how_sure_that_is():
    sample = Sample.of([float(value) for value in range(40)])
    assert sample.p99 == sample.largest == 39.0
    assert confidence_of_largest(40, 0.99) == pytest.approx(0.331, abs=1e-3)
    assert confidence_of_largest(299, 0.99) >= 0.95


def test_p99_of_many_values_leaves_one_in_hundred_above():
    assert Sample.of([float(value) for value in range(1, 1001)]).p99 == 990.0


def test_no_values_have_no_quantile():
    with pytest.raises(ValueError, match="at least one"):
        quantile([], 0.5)


def test_no_failure_in_n_excludes_three_in_n():
    assert rate_bound(3000) == pytest.approx(1e-3)
    assert rate_bound(0) == 1.0
