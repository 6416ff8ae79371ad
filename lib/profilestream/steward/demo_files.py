"""The demo's input: the Online Retail sample laid out as a file a day, as a shop would deliver it."""

import os
import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from profilestream.base.errors import SourceMissing


def lay_out(sample: Path, folder: Path, *, days: int | None = None, by: Literal["day", "month"] = "day") -> int:
    """Write the sample as `<day>.csv` files, dated in order, in a folder that is emptied first.

    Args:
        sample: the Parquet file of the log, all columns text.
        days: how many files from the first day on; all when null.
        by: what a file holds.

    Returns:
        The number of files.

    Raises:
        SourceMissing: the sample is not there.
    """
    if not sample.exists():
        raise SourceMissing("the sample is not there", where=str(sample), do="run it in a checkout of the repository")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = pq.read_table(sample)
    day_of = pc.utf8_slice_codeunits(lines["InvoiceDate"], 0, {"day": 10, "month": 7}[by])
    wanted = sorted(str(day) for day in pc.unique(day_of).to_pylist())[:days]
    for number, day in enumerate(wanted):
        file = folder / f"{day}.csv"
        pyarrow.csv.write_csv(lines.filter(pc.equal(day_of, pa.scalar(day))), file)
        os.utime(file, (1_300_000_000 + number * 86_400, 1_300_000_000 + number * 86_400))
    return len(wanted)


def clear(*folders: str) -> list[str]:
    """Remove what an earlier demo left; returns the folders that were there."""
    there = [folder for folder in folders if os.path.exists(folder)]
    for folder in there:
        shutil.rmtree(folder)
    return there
