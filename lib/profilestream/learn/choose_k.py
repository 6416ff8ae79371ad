"""How many segments? Cost and silhouette of full k-means over a sample, for several numbers of segments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from profilestream.learn.als import Floats

_STARTS, _JUDGED = 5, 2_000


@dataclass(frozen=True)
class Tried:
    """What a number of segments gives.

    Args:
        cost: mean squared distance to the center, over that to one center for all (1 for k = 1): the elbow is where it
            stops to fall steeply.
        silhouette: mean of (b - a) / max(a, b) over users, a the mean distance within the own segment and b that to the
            nearest other one (Rousseeuw, 1987); from -1 to 1, the higher the better.
    """

    k: int
    cost: float
    silhouette: float


def tried(points: Floats, numbers: Sequence[int], seed: int) -> Iterator[Tried]:
    """Each number of segments in turn, by the best of five full runs of k-means.

    Args:
        points: of a sample of users, (users, dimensions); numbers that are not below the number of different points are
            passed over. The silhouette is that of at most 2,000 of them.
    """
    import numpy as np
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from sklearn.metrics import silhouette_score  # type: ignore[import-untyped]

    different = len(np.unique(points, axis=0))
    whole = float(((points - points.mean(axis=0)) ** 2).sum()) if len(points) else 0.0
    for k in numbers:
        if not 1 < k < different:
            continue
        found = KMeans(k, n_init=_STARTS, random_state=seed).fit(points)
        size = min(_JUDGED, len(points)) if len(points) > _JUDGED else None
        silhouette = silhouette_score(points, found.labels_, sample_size=size, random_state=seed)
        yield Tried(k, float(found.inertia_) / whole, float(silhouette))
