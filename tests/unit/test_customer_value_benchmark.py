"""The baselines of the CDNOW benchmark have the published parameters on the published sample."""

import pytest

from benchmarks import customer_value


def test_bg_nbd_has_the_published_parameters() -> None:
    """Fader, Hardie and Lee, 2005: r, alpha, a, b."""
    assert customer_value.bg_nbd(True) == pytest.approx((0.243, 4.414, 0.793, 2.426), rel=0.005)


def test_gamma_gamma_has_the_published_parameters() -> None:
    """Fader and Hardie, 2013: p, q, gamma."""
    assert customer_value.gamma_gamma(True) == pytest.approx((6.25, 3.74, 15.45), rel=0.01)
