"""The interface of published models: they read the rows of their version, and predict from Arrow tables."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

Options = Mapping[str, Any]


class PublishedRows:
    """The rows of a version in its published table, read without Spark.

    Args:
        table: folder or URI of the published table.

    Raises:
        ValueError: the rows of the version were removed.
    """

    def __init__(self, table: str, model_version: int) -> None:
        is_of_version = pc.field("model_version") == model_version
        self._rows = DeltaTable(table).to_pyarrow_dataset().filter(is_of_version)
        if not self._rows.count_rows():
            raise ValueError(
                f"{table} has no rows of version {model_version}: they were removed because no alias names this "
                "version; load a version that has an alias"
            )

    def read(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """Rows that satisfy a condition; by default all rows, and all columns."""
        return self._rows.to_table(columns=None if columns is None else list(columns), filter=where)


class Predictor(Protocol):
    """The predictions of a published version; `outputs` are their columns.

    Args:
        rows: of the version.
        params: parameters that are needed to read the rows.
        options: defaults of the options of `predict`.
    """

    outputs: ClassVar[pa.Schema]

    def __init__(self, rows: PublishedRows, params: Mapping[str, Any], options: Options) -> None: ...

    def predict(self, inputs: pa.Table, options: Options) -> pa.Table:
        """One row with the columns `outputs` per row of the inputs, in the same order."""
        ...
