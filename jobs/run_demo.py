"""The whole flow on a real log: Online Retail, a file a day. Started by `make demo`.

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


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        print(f"would empty {settings.paths.warehouse} and {settings.paths.checkpoints}, and lay out {SAMPLE}")
        return
    removed = demo_files.clear(settings.paths.warehouse, settings.paths.checkpoints)
    print(
        f"removed the output of an earlier demo: {', '.join(removed)}" if removed else "a first demo: nothing to remove"
    )
    files = demo_files.lay_out(SAMPLE, Path(settings.capture.sources["online_retail"].path), days=args.days)
    print(f"laid out Online Retail as {files} daily files; starting Spark (a few seconds)", flush=True)
    spark = open_session("demo", settings.spark.properties)
    options = job.options(args)
    flow.check(spark, settings, options)
    flow.run(spark, settings, options)
    print()
    status.show(spark, settings.paths, print)
    status.show_clean(spark, settings.paths, print)
    status.show_queries(spark, settings, print)
    demo_summary.show_quality(spark, settings, print)
    demo_summary.show(spark, settings, args.config, print)
    demo_summary.show_page(settings, print)


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__, "conf/demo.toml")
    parser.add_argument("--days", type=int, help="only so many days from the first on; all when left out")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
