"""Lets events arrive at given rates while the pipeline runs, and measures latency, lag, memory, files and cost.

reads:  a log, or nothing: then seeded events of a shop are generated
writes: a warehouse in --folder; with --report docs/performance.md, its picture and benchmarks/results/load.json

Each rate is a window of constant rate. It stops after the first rate at which the lag of user_profiles grows.
"""

import argparse
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

import kafka_broker  # noqa: E402
from profilestream.base.errors import ProfilestreamError  # noqa: E402
from profilestream.base.session import open_session  # noqa: E402

from benchmarks import derive, load_run, performance_page  # noqa: E402
from benchmarks.load_run import Input, Load, Window  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.performance_page import LoadReport, RateResult  # noqa: E402
from benchmarks.timing import empty_folder  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rates = "events per second, separated by commas; default: 100,200,500,1000,2000,4000,8000,16000"
    result.add_argument("--rates", default="100,200,500,1000,2000,4000,8000,16000", help=rates)
    result.add_argument("--seconds", type=int, default=60, help="of each rate, after the warm-up (default 60)")
    result.add_argument("--warm-up", type=int, default=20, help="seconds before them (default 20)")
    result.add_argument("--start", type=int, default=60, help="seconds before the first rate, to start (default 60)")
    result.add_argument("--profiles", type=int, default=200_000, help="stored profiles at the start; 0 or >= 80000")
    result.add_argument("--kafka", action="store_true", help="records of a topic, in a broker of its own, not files")
    result.add_argument("--learners", action="store_true", help="with factors and segments")
    result.add_argument("--tags-every", type=int, default=120, help="interval of serve_tags, s (default 120); 0: never")
    result.add_argument("--log", type=Path, help="replay this log (.jsonl, .csv, .parquet); needs --mapping")
    result.add_argument("--mapping", type=Path, help="mapping of the log, for its columns")
    result.add_argument("--seed", type=int, default=1, help="of the generated events")
    result.add_argument(
        "--folder", type=Path, default=Path("artifacts/load"), help="is emptied (default artifacts/load)"
    )
    result.add_argument("--report", action="store_true", help="write the page docs/performance.md")
    return result


def main(argv: list[str]) -> int:
    arguments = parser()
    args = arguments.parse_args(argv)
    if bool(args.log) != bool(args.mapping):
        arguments.error("--log and --mapping belong together")
    if 0 < args.profiles < derive.ACTIVE_USERS:
        arguments.error(f"--profiles is 0 or at least {derive.ACTIVE_USERS}")
    folder = empty_folder(args.folder.resolve())
    try:
        with load_run.started_broker(folder / "broker") if args.kafka else nullcontext("") as servers:
            report = _measure(args, folder, servers)
    except (kafka_broker.BrokerFailed, ProfilestreamError, TimeoutError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    if not report.rates:
        print("load: the log ended during the warm-up", file=sys.stderr)
        return 2
    for part in (performance_page.rates_table, performance_page.saturation, performance_page.costs_table):
        print(f"{part(report)}\n")
    if args.report:
        performance_page.write(report)
    return 0


def _measure(args: argparse.Namespace, folder: Path, servers: str) -> LoadReport:
    spark = open_session("load", str(ROOT / "conf" / "spark-local.conf"))
    home = empty_folder(folder / "home")
    if args.profiles:
        derive.prepare_profiles(spark, home, args.profiles)
    source = Input(folder / "input", servers, seed=args.seed)
    if args.log:
        mapping = folder / "mapping.toml"
        mapping.write_text(kafka_broker.json_mapping(args.mapping))
        source = Input(folder / "input", servers, args.log.resolve(), mapping)
    settings = load_run.load_settings(home, source, learners=args.learners, tags_seconds=args.tags_every)

    rates = [int(rate) for rate in args.rates.split(",")]

    def run_rates(load: Load) -> None:
        load.start(rates[0], args.start)
        for rate in rates:
            window = load.run_window(rate, args.seconds, args.warm_up)
            print(f"{rate:,} events/s: p50, p95, p99 {window.percentiles(load_run.PROFILES)} s", flush=True)
            has_log_ended = len(window.arrived) < args.seconds
            if has_log_ended or not window.is_steady(load_run.PROFILES):
                return

    windows = load_run.measure(spark, settings, source, run_rates)
    return LoadReport(
        machine=machine(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        source=(
            str(args.log.name)
            if args.log
            else "generated events (Zipf items, sessions, 1 % late, 1 % repeated, 0.5 % bad lines)"
        )
        + (" as records of a topic with two partitions" if servers else " as files, one per second"),
        stages=load_run.stages_text(settings),
        profiles=args.profiles,
        rates=tuple(
            rate_result(window, load_run.TAGS if args.tags_every and not args.log else "")
            for window in windows
            if window.arrived
        ),
    )


def rate_result(window: Window, tags: str) -> RateResult:
    """The results of a window, with the latency of these tables."""
    names = [name for name in (load_run.EVENTS, load_run.PROFILES, tags) if name]
    return RateResult(
        rate=window.rate,
        seconds=window.seconds,
        lines_per_second=round(window.lines / window.seconds, 1),
        is_steady=window.is_steady(load_run.PROFILES),
        latency={name: window.percentiles(name) for name in names},
        missing=window.missing(load_run.PROFILES),
        lag_growth=window.lag_growth(),
        cores=round(window.cpu_cores, 2),
        memory_mb=round(window.memory_mb),
        files=window.files,
        costs=window.costs(),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
