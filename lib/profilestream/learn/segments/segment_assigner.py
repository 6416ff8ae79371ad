"""The predictor of published segments: mean vectors of users -> segments."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.predictor import Options, PublishedRows
from profilestream.learn.segments.kernels import kmeans

_OUTPUTS: "list[pa.Field[Any]]" = [pa.field("segment_id", pa.int64()), pa.field("distance", pa.float64())]


class SegmentAssigner:
    """Mean vectors, one column per dimension -> `segment_id` of the nearest center and `distance` to it.

    The distance is in standard deviations, in the scaling of the version. A missing value, and a dimension with scale
    0, count as the mean of all users.
    """

    outputs: ClassVar[pa.Schema] = pa.schema(_OUTPUTS)

    def __init__(self, rows: PublishedRows, params: Mapping[str, Any], options: Options) -> None:
        segments = rows.read(["segment_id", "center", "location", "scale"]).sort_by("segment_id").to_pylist()
        self._ids = np.array([row["segment_id"] for row in segments])
        self._dimensions = sorted(dict(segments[0]["location"]))
        self._centers = np.array([self._vector(row["center"]) for row in segments])
        self._location, self._scale = (self._vector(segments[0][name]) for name in ("location", "scale"))

    def predict(self, inputs: pa.Table, options: Options) -> pa.Table:
        """The nearest segment of each vector."""
        vectors = np.column_stack([inputs[name].cast(pa.float64()).to_numpy() for name in self._dimensions])
        difference = np.nan_to_num(vectors - self._location)
        points = np.divide(difference, self._scale, out=np.zeros_like(difference), where=self._scale > 0)
        nearest, squared = kmeans.nearest_centers(points, self._centers)
        return pa.table([pa.array(self._ids[nearest]), pa.array(np.sqrt(squared))], schema=self.outputs)

    def _vector(self, items: list[tuple[str, float]]) -> Floats:
        values = dict(items)
        return np.array([values[name] for name in self._dimensions])
