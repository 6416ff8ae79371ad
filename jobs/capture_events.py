"""Capture raw logs as clean events, exactly once.

reads:  the sources in the settings (folders of JSON lines, CSV or Parquet files; Delta tables; topics)
writes: events, rejected_events, capture_batches, capture_alarms, capture_gaps, capture_sequences, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job, streaming
from profilestream.base.session import open_session
from profilestream.capture import capture_checks, ingest, preview


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    names = ingest.chosen_sources(settings, args.source)
    spark = open_session("capture_events", settings.spark.properties)
    if args.preview:
        return preview.run(spark, settings, names, *args.preview)
    capture_checks.check_sources(spark, settings, names)
    if not args.check:
        streaming.run(spark, [ingest.query(settings, name) for name in names], settings, job.options(args))
        flow.show_next(settings, list(ingest.output_tables(settings.capture)))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    parser.add_argument("--source", help="one source of the settings; default: all sources")
    parser.add_argument(
        "--preview", nargs=2, metavar=("N", "FILE"), help="print the first N clean rows of a file, and write nothing"
    )
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
