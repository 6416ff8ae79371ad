"""Hour tiles of old days -> day tiles, in the same tables; the values of features do not change.

reads, writes: the tile tables that window features name, such as user_hours
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.derive import compact_tiles, tiles


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("steward_compact_tiles", settings.spark.properties)
    tiles.check(spark, settings)
    if not args.check:
        compact_tiles.run(spark, settings)


def main(argv: list[str]) -> int:
    return job.run(body, job.parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
