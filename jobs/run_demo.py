"""The complete flow on a real log: Online Retail, one file per day. `make demo` starts it.

reads:  data/online_retail
writes: demo/ (emptied first)
"""

import argparse
import sys
from pathlib import Path

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.steward import demo_files, demo_summary, status

SAMPLE = Path("data/online_retail/online_retail_2010_2011.parquet")
# Ten of the twelve months. The complete year takes more than five minutes on two cores.
DAYS = 244


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        print(f"would empty {settings.paths.warehouse} and {settings.paths.checkpoints}, and split {SAMPLE}")
        return
    removed = demo_files.remove_folders(settings.paths.warehouse, settings.paths.checkpoints)
    if removed:
        print(f"removed the output of an earlier demo: {', '.join(removed)}")
    files = demo_files.split_sample(SAMPLE, Path(settings.capture.sources["online_retail"].path), max_files=args.days)
    print(f"split Online Retail into {files} daily files; starting Spark (a few seconds)", flush=True)
    spark, options = open_session("demo", settings.spark.properties), job.options(args)
    flow.check(spark, settings, options)
    if not flow.run(spark, settings, options):
        return
    print()
    status.show(spark, settings.paths, print)
    status.show_clean(spark, settings.paths, print)
    status.show_queries(spark, settings, print)
    demo_summary.show_metrics(spark, settings, print)
    demo_summary.show_newest_user(spark, settings, args.config, print)
    demo_summary.show_report_path(settings, print)


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__, "conf/demo.toml")
    parser.add_argument("--days", type=int, default=DAYS, help=f"number of days of the log; {DAYS} by default")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
