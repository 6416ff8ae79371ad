"""Types of numpy arrays, and the name of a column."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Of rows that replace stored rows by key: true for those that are deleted.
IS_DELETED = "_is_deleted"
