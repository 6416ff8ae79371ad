"""Hour tiles of days that are old enough -> day tiles, in the same tables; answers stay the same.

reads, writes: the tables of hour tiles that window features name, such as user_hours
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
