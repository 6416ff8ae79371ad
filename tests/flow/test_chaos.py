"""kill -9 for real; `make chaos` does 20 of them over the whole demo log."""

from pathlib import Path

from tests.flow import chaos


def test_three_kills_in_twenty_days_change_nothing(tmp_path: Path) -> None:
    rows = chaos.run(tmp_path, days=20, kills=3, files_per_batch=3, seed=7)
    assert rows["capture_batches"] == 7
