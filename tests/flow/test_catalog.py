"""Tables are registered in a Hive metastore, where other sessions find them by name."""

import json
import subprocess
import sys
from pathlib import Path

from tests.builders import Shop, event, short_lived_env

ROOT = Path(__file__).parent.parent.parent
# An embedded metastore, in a Derby database.
METASTORE = """
spark.sql.catalogImplementation hive
spark.hadoop.javax.jdo.option.ConnectionURL jdbc:derby:;databaseName={home}/metastore;create=true
spark.sql.warehouse.dir {home}/spark-warehouse
spark.driver.extraJavaOptions -Dderby.system.home={home}
"""
READER = """
import sys
from profilestream.base.session import open_session
spark = open_session("reader", sys.argv[1])
print(spark.sql("SELECT count(*) FROM living.events").head()[0])
print(spark.sql("DESCRIBE DETAIL living.capture_batches").head()["location"])
"""


def test_another_session_reads_tables_by_name_from_a_hive_metastore(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.write("0.jsonl", "\n".join(json.dumps(event(n)) for n in range(5)))
    properties = tmp_path / "spark.conf"
    properties.write_text((ROOT / "conf" / "spark-local.conf").read_text() + METASTORE.format(home=tmp_path))
    overrides = ["--set", "paths.catalog=living", "--set", f"spark.properties={properties}"]
    _run("jobs/capture_events.py", "--config", str(shop.config()), *overrides)
    count, location = _run("-c", READER, str(properties)).splitlines()
    assert (count, location) == ("5", f"file:{tmp_path}/warehouse/capture_batches")


def _run(*arguments: str) -> str:
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=short_lived_env())
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout
