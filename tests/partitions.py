"""Passes over Arrow tables that are computed in parts, as Spark computes partitions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from profilestream.base import passes
from profilestream.base.passes import Pass


@contextmanager
def split_into(parts: int, order: Sequence[int] | None = None) -> Iterator[None]:
    """Call kernels once per part: all rows of a key are in one part, and inputs without a key are in all of them.

    Args:
        order: of the calls; a number from `parts` on is a part without rows.
    """
    call_whole = passes.call_kernel

    def call(one: Pass, inputs: Mapping[str, pa.Table], arguments: Mapping[str, Any]) -> dict[str, Any]:
        outputs = [
            call_whole(one, {name: _part(one, name, rows, parts, number) for name, rows in inputs.items()}, arguments)
            for number in order or range(parts)
        ]
        tables = {name: pa.concat_tables([output[name] for output in outputs]) for name in one.outputs}
        return tables | {name: [result for output in outputs for result in output[name]] for name in one.results}

    with patch.object(passes, "call_kernel", call):
        yield


def _part(one: Pass, name: str, rows: pa.Table, parts: int, number: int) -> pa.Table:
    if one.is_binary(name):
        return rows
    keys: list[Any] = rows[one.keys[name]].to_pylist() if one.keys else list(map(str, range(rows.num_rows)))
    return rows.filter(pa.array([sum(key.encode()) % parts == number for key in keys], pa.bool_()))
