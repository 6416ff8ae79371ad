"""The proposed mapping captures the log that it was detected from, and the report contains what to check."""

import json
from pathlib import Path

import pytest
from profilestream.base.errors import BadSettings
from profilestream.capture.detection import propose_source
from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent.parent


def test_a_nested_log_is_captured_by_its_proposal(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events with and without items, numbers in texts, a key-value array, an unknown type, and one invalid line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    names = ["page_view", "Product Viewed", "add_to_cart", "scroll"]
    events = [
        {
            "event": names[i % 4],
            "event_timestamp": str(1_612_069_510_000_000 + i), "user_pseudo_id": f"{i % 3 + 1}.5",
            "params": [{"key": "ga_session_id", "value": {"int_value": str(i // 4 + 1)}}],
            "items": [{"item_id": f"i{i}", "price": 9.5}, {"item_id": "i0", "price": "3"}] if i % 4 in (1, 2) else [],
        }
        for i in range(16)
    ]  # fmt: skip
    lines = [json.dumps(event) for event in events]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"event": ']) + "\n")
    printed: list[str] = []

    def propose() -> None:
        propose_source.run(lambda: spark, "log.jsonl", name="web", out="out", timezone="", print_line=printed.append)

    propose()
    # Eight events have two items each.
    assert "25 rows = 24 clean + 1 rejected + 0 duplicate" in printed
    assert "96.0% of the sampled records are captured (clean or duplicate)" in printed
    (row,) = [json.loads(line.split("  ", 2)[-1]) for line in printed if line.startswith("   2  ")]
    assert {key: row[key] for key in ("event_type", "user_id", "item_id", "session_id", "price")} == {
        "event_type": "view", "user_id": "web:2.5", "item_id": "web:i1", "session_id": "1", "price": 9.5,
    }  # fmt: skip
    (unsure,) = [line for line in printed if "event_types:" in line]
    number = int(unsure.split("mapping.toml:")[1].split()[0])
    assert (tmp_path / "out" / "mapping.toml").read_text().splitlines()[number - 1] == 'event_types = ["scroll"]'
    with pytest.raises(BadSettings, match="does not overwrite"):
        propose()
