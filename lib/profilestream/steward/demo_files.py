"""The input of the demo: the Online Retail sample as one CSV file per day, as a shop would deliver it."""

import os
import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from profilestream.base.errors import SourceMissing

_FIRST_MTIME, _SECONDS_PER_DAY = 1_300_000_000, 86_400  # any fixed times in ascending order


def split_sample(
    sample: Path, folder: Path, *, max_files: int | None = None, period: Literal["day", "month"] = "day"
) -> int:
    """Write the sample as `<period>.csv` files with ascending modification times; the folder is emptied first.

    Args:
        sample: Parquet file of the log; all columns are text.
        max_files: only the first so many periods; all when null.
        period: of the events in one file.

    Returns:
        The number of files.

    Raises:
        SourceMissing: the sample does not exist.
    """
    if not sample.exists():
        raise SourceMissing(
            "the sample does not exist", where=str(sample), do="run this in a checkout of the repository"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    events = pq.read_table(sample)
    period_of_event = pc.utf8_slice_codeunits(events["InvoiceDate"], 0, {"day": 10, "month": 7}[period])
    periods = sorted(str(value) for value in pc.unique(period_of_event).to_pylist())[:max_files]
    for number, value in enumerate(periods):
        file = folder / f"{value}.csv"
        pyarrow.csv.write_csv(events.filter(pc.equal(period_of_event, pa.scalar(value))), file)
        mtime = _FIRST_MTIME + number * _SECONDS_PER_DAY
        os.utime(file, (mtime, mtime))
    return len(periods)


def remove_folders(*folders: str) -> list[str]:
    """Remove the output of an earlier demo; returns the folders that existed."""
    existing = [folder for folder in folders if os.path.exists(folder)]
    for folder in existing:
        shutil.rmtree(folder)
    return existing
