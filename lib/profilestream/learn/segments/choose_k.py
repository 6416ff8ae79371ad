"""Help to choose the number of segments: cost and silhouette of k-means over a sample, for several values of k."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from profilestream.learn.kernels.arrays import Floats

_INITIALIZATIONS = 5
_MAX_SILHOUETTE_POINTS = 2_000


@dataclass(frozen=True)
class KScore:
    """How well k segments fit the sample.

    Args:
        cost: sum of squared distances to the nearest center, divided by that of one center for all points; 1 for k = 1.
            The elbow of the curve over k shows where more segments gain little.
        silhouette: mean of (b - a) / max(a, b) over the points, with a the mean distance to points of the same segment
            and b the mean distance to points of the nearest other one (Rousseeuw, 1987); -1 to 1, higher is better.
    """

    k: int
    cost: float
    silhouette: float


def score_each_k(points: Floats, ks: Sequence[int], seed: int) -> Iterator[KScore]:
    """The score of each k, by the best of five runs of scikit-learn's KMeans.

    Args:
        points: of a sample of users, (users, dimensions). The silhouette is computed over at most 2,000 of them.
        ks: values below 2, and values that are not below the number of distinct points, are skipped.
    """
    import numpy as np
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from sklearn.metrics import silhouette_score  # type: ignore[import-untyped]

    distinct = len(np.unique(points, axis=0))
    cost_of_one = float(((points - points.mean(axis=0)) ** 2).sum()) if len(points) else 0.0
    for k in ks:
        if not 1 < k < distinct:
            continue
        model = KMeans(k, n_init=_INITIALIZATIONS, random_state=seed).fit(points)
        sample_size = _MAX_SILHOUETTE_POINTS if len(points) > _MAX_SILHOUETTE_POINTS else None
        silhouette = silhouette_score(points, model.labels_, sample_size=sample_size, random_state=seed)
        yield KScore(k, float(model.inertia_) / cost_of_one, float(silhouette))
