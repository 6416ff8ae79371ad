"""Principal components and linear discriminants from mergeable sums equal those of scikit-learn."""

import numpy as np
import pytest
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY, total
from profilestream.learn.outcomes.kernels import projections
from profilestream.learn.outcomes.kernels.projections import ScatterSums
from sklearn.decomposition import PCA  # type: ignore[import-untyped]
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # type: ignore[import-untyped]

RNG = np.random.default_rng(3)
# Correlated, far from 0.
VECTORS = RNG.normal(size=(300, 5)) @ RNG.normal(size=(5, 5)) + 1e4
CLASSES = (VECTORS[:, 0] > VECTORS[:, 1]).astype(int) + (VECTORS[:, 2] > 1e4)


def sums_of(vectors: Floats, day: int = 1) -> ScatterSums:
    return ScatterSums.of(vectors, np.full(len(vectors), day * MICROS_PER_DAY), None)


@pytest.mark.parametrize("parts", [1, 4, 300])
def test_components_of_any_partition_equal_those_of_scikit_learn(parts: int) -> None:
    order = RNG.permutation(300)
    sums = total([sums_of(part) for part in np.array_split(VECTORS[order], parts)], None)
    actual, expected = projections.principal_components(sums, 3), PCA(3, svd_solver="full").fit(VECTORS)
    np.testing.assert_allclose(actual.axes, expected.components_, atol=1e-6)
    np.testing.assert_allclose(actual.values, expected.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(actual.coordinates(VECTORS), expected.transform(VECTORS), atol=1e-6)


@pytest.mark.parametrize("parts", [1, 7])
def test_discriminants_of_any_partition_equal_those_of_scikit_learn(parts: int) -> None:
    classes = [
        total([sums_of(part) for part in np.array_split(VECTORS[CLASSES == one], parts)], None) for one in range(3)
    ]
    actual = projections.linear_discriminants(classes, 2)
    expected = LinearDiscriminantAnalysis(solver="eigen").fit(VECTORS - 1e4, CLASSES).scalings_[:, :2].T
    signs = np.sign((actual.axes * expected).sum(axis=1))[:, None]
    np.testing.assert_allclose(actual.axes, signs * expected, atol=1e-6)
    coordinates, shares = actual.coordinates(VECTORS), [np.mean(CLASSES == one) for one in range(3)]
    means = np.array([coordinates[CLASSES == one].mean(axis=0) for one in range(3)])
    np.testing.assert_allclose(actual.values, shares @ means**2, rtol=1e-6)


def test_discriminants_of_classes_with_few_vectors_and_constant_columns_are_finite() -> None:
    vectors = np.column_stack([VECTORS[:4, :2], np.ones(4)])
    actual = projections.linear_discriminants([sums_of(vectors[:2]), sums_of(vectors[2:]), ScatterSums.zero(3)], 5)
    assert actual.axes.shape == (1, 3) and np.isfinite(actual.axes).all()


def test_old_vectors_weigh_less() -> None:
    old, new = VECTORS[:100], VECTORS[100:] + 50
    times = np.repeat([1, 11], [100, 200]) * MICROS_PER_DAY
    whole = ScatterSums.of(np.vstack([old, new]), times, 10.0)
    merged = total([sums_of(new, 11), sums_of(old, 1)], 10.0)
    np.testing.assert_allclose(merged.mean, np.average(np.vstack([old, new]), axis=0, weights=[0.5] * 100 + [1] * 200))
    for name in ("weight", "mean", "scatter"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-9)


def test_too_few_vectors_or_classes_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least two vectors, not 1"):
        projections.principal_components(sums_of(VECTORS[:1]), 2)
    with pytest.raises(ValueError, match="at least two classes"):
        projections.linear_discriminants([sums_of(VECTORS), ScatterSums.zero(5)], 2)
    zero = ScatterSums.zero(5)
    assert (zero + zero).weight == 0 and sums_of(VECTORS[:0]).weight == 0
