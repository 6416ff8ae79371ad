"""serve_audience without Spark: names, paths, columns, and texts that a spreadsheet would run."""

from pathlib import Path

import pyarrow as pa
import pytest
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings
from profilestream.serve.audiences import audience_files
from profilestream.serve.audiences.audience_condition import Audience

DEMO = str(Path(__file__).parent.parent.parent / "conf" / "demo.toml")


def test_the_complete_list_is_next_to_the_warehouse_or_a_local_csv_or_parquet_file() -> None:
    settings = settings_module.load(DEMO, ["paths.warehouse=/data/shop/warehouse"])
    paths = [audience_files.complete_list(settings, out, "buyers") for out in ("", "x/b.parquet")]
    assert paths == [Path("/data/shop/audiences/buyers.csv"), Path("x/b.parquet")]
    assert audience_files.change_list(paths[1], "added") == Path("x/b.added.parquet")
    remote = settings_module.load(DEMO, ["paths.warehouse=s3://bucket/warehouse"])
    for one, out in ((remote, ""), (settings, "s3://bucket/b.csv"), (settings, "b.xlsx"), (settings, "folder")):
        with pytest.raises(BadSettings, match="is not a .csv or .parquet file on this machine"):
            audience_files.complete_list(one, out, "buyers")


@pytest.mark.parametrize("name", ["", "Buyers", "../buyers", "käufer", "-x"])
def test_the_name_of_an_audience_can_be_the_name_of_a_file(name: str) -> None:
    with pytest.raises(BadSettings, match="cannot be the name of an audience"):
        Audience(name, where="true")


@pytest.mark.parametrize("columns", ['["orders"]', '["user_id", "user_id"]'])
def test_columns_contain_the_user_id_and_no_column_twice(columns: str) -> None:
    with pytest.raises(BadSettings, match="serve.audience.columns: user_id must be one of the columns"):
        settings_module.load(DEMO, [f"serve.audience.columns={columns}"])


def test_formulas_are_refused_in_csv_without_showing_them() -> None:
    formulas = ["=1+1", "+49", "-5", "@home", "\tx", "\rx", "\nx", "＝1", "a;=1", 'a;"=1', "a\n-1"]
    texts = ["tea", "a=b", "a,=b", "2-1", "", None, "me@home"]
    rows = pa.table({
        "user_id": [f"shop:{n}" for n in range(len(formulas + texts))],
        "name": [*texts, *formulas], "orders": [-1] * len(formulas + texts),
    })  # fmt: skip
    with pytest.raises(BadSettings) as raised:
        audience_files.check_formulas(Path("x.csv"), rows)
    assert raised.value.what == "texts that a spreadsheet would run as formulas: 11 in name, such as one with '='"
    audience_files.check_formulas(Path("x.csv"), rows.slice(0, len(texts)))
    audience_files.check_formulas(Path("x.parquet"), rows)


def test_no_file_is_replaced_before_all_are_complete(tmp_path: Path) -> None:
    first, second, rows = tmp_path / "a.csv", tmp_path / "b.csv", pa.table({"user_id": ["shop:a"]})
    audience_files.write({first: rows})
    (tmp_path / ".b.csv.tmp").mkdir()
    with pytest.raises(BadSettings, match="cannot write .*b.csv"):
        audience_files.write({first: rows.slice(0, 0), second: rows})
    assert first.read_text() == '"user_id"\n"shop:a"\n' and not second.exists()
