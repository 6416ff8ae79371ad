"""Runs benchmarks: each appends a line to results/latest.jsonl, and the README gets a table of the last results.

python benchmarks/run.py [--only NAME]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

from profilestream.base.session import open_session  # noqa: E402

from benchmarks import (  # noqa: E402
    anomaly,
    capture,
    costs,
    customer_value,
    demand,
    derive,
    latency,
    learn,
    many_batches,
    markdown,
    outcomes,
    quality,
    segments,
    serve,
    windows,
)
from benchmarks.result import Result  # noqa: E402

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
BENCHMARKS = (
    capture.capture_vs_copy, capture.capture_history_10x, capture.capture_empty_batch,
    derive.profile_fold_vs_merge, derive.profile_state_20x, derive.tiles_vs_append, derive.backfill_rate,
    derive.sessions_vs_merge, derive.sessions_history_10x,
    derive.profile_bytes_10, derive.profile_bytes_1000,
    latency.small_batch_cpu, latency.latency_local, latency.latency_local_1000, latency.latency_all_100,
    latency.latency_all_1000, latency.latency_kafka, latency.sustained_rate, latency.idle_cpu,
    capture.kafka_vs_files, costs.cost_per_million, many_batches.batches_1000,
    windows.features_asof_vs_sql, windows.entity_times_10k,
    learn.factors_vs_mllib, learn.factors_model_10x, learn.topn_vs_mllib,
    learn.segments_batch_vs_mllib, learn.factors_small_batch, learn.segments_small_batch,
    outcomes.outcomes_auc_vs_boosting, outcomes.outcomes_cpu_vs_boosting, outcomes.outcomes_ece,
    outcomes.outcomes_split, outcomes.spend_bias, outcomes.scores_rate,
    serve.report_seconds, serve.users_table_small_batch, serve.head_users,
)  # fmt: skip
# Benchmarks without Spark.
QUALITY = (
    quality.recall20_vs_retrain_online_retail, quality.recall20_vs_decayed_retrain_online_retail,
    quality.recall20_vs_popularity_online_retail, quality.recall20_vs_retrain_complete_journey,
    quality.recall20_vs_decayed_retrain_complete_journey, quality.recall20_vs_popularity_complete_journey,
    quality.next_basket_recall10, quality.next_category_recall10,
    customer_value.cdnow_auc_vs_bgnbd,
    demand.demand_item_week_wape_vs_last_week, demand.demand_category_day_wape_vs_seasonal,
    anomaly.anomaly_precision_at_k,
    quality.rmse_ml100k_5fold_onepass, quality.rmse_ml100k_5fold_whole,
    segments.kmeans_cost_vs_best20, segments.kmeans_cost_vs_best20_complete_journey, segments.kmeans_ari_births,
    segments.kmeans_first_batch_spread, segments.kmeans_core_time_vs_best20,
)  # fmt: skip
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "latest.jsonl"


def main(argv: list[str]) -> int:
    names = [bench.__name__ for bench in (*BENCHMARKS, *QUALITY)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=names)
    only = parser.parse_args(argv).only
    RESULTS.parent.mkdir(exist_ok=True)
    for result in _run(only):
        print(result.json_line(), flush=True)
        with RESULTS.open("a") as file:
            file.write(result.json_line() + "\n")
    README.write_text(replace_table(README.read_text(), RESULTS.read_text().splitlines()))
    return 0


def _run(only: str | None) -> Iterator[Result]:
    """Results of all benchmarks, or of one. The Spark session is opened only if a benchmark needs it."""
    with_spark = [bench for bench in BENCHMARKS if only in (None, bench.__name__)]
    if with_spark:
        spark = open_session("bench", str(ROOT / "conf" / "spark-local.conf"))
        for bench in with_spark:
            with tempfile.TemporaryDirectory() as work:
                yield bench(spark, Path(work))
    yield from (bench() for bench in QUALITY if only in (None, bench.__name__))


def replace_table(readme: str, lines: list[str]) -> str:
    """The README with a new table of benchmarks, with the last result of each."""
    last_results = {result["bench"]: result for result in map(json.loads, lines)}
    rows = []
    for name, result in last_results.items():
        sign = {"higher": "at least", "lower": "at most"}[result["better"]]
        value = f"{result['value']:.4g} {result['unit']}"
        holds = "yes" if result["holds"] else "**no**"
        bound = f"{sign} {result['bound']}"
        rows.append([f"`{name}`", value, bound, result["against"], holds, result["detail"]])
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    header = ("benchmark", "value", "bound", "against", "holds", "detail")
    return "\n".join([before + BEGIN, markdown.table(header, rows), END + after])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
