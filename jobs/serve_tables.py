"""Write one plain row per user and one per item, for readers who know SQL; only rows that changed are written.

reads:  events, the profile table, basket_counts, user_groups, user_tags, user_segments, segment_descriptions,
        recommendations, user_scores, users, items
writes: users, items
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.plain_tables import write_plain_tables


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(write_plain_tables.STEP, settings.spark.properties)
    write_plain_tables.check(spark, settings)
    if not args.check:
        users, items = write_plain_tables.run(spark, settings)
        print(f"changed rows in {settings.paths.warehouse}: {users:,} in users, {items:,} in items")


def main(argv: list[str]) -> int:
    return job.run(body, job.parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
