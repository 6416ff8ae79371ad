"""Export the users of an audience for a mailing or an ad platform, with the changes since the last export.

reads:  users, audience_users; the suppression lists of the settings
writes: audience_users; three files: the complete list, and the added and removed users
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.audiences import audience_files, export_audience
from profilestream.serve.audiences.audience_condition import Audience


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    audience = Audience(args.name, args.where, args.tag, args.segment)
    path = audience_files.complete_list(settings, args.out, audience.name)
    spark = open_session(export_audience.STEP, settings.spark.properties)
    if args.check:
        export_audience.check(spark, settings, audience)
        return
    print(export_audience.run(spark, settings, audience, path, is_dry_run=args.dry_run).text)
    print(f"dry run: nothing was written to {path}" if args.dry_run else f"wrote {path}, and both change lists")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--name", required=True, metavar="NAME", help="name of the audience, for the change lists")
    audience = parser.add_mutually_exclusive_group(required=True)
    audience.add_argument("--where", default="", metavar="SQL", help="condition over the columns of users")
    audience.add_argument("--tag", default="", metavar="NAME", help="users with this tag")
    audience.add_argument("--segment", default="", metavar="NAME", help="users with this rfm_segment or segment")
    parser.add_argument(
        "--out",
        default="",
        metavar="FILE",
        help="complete list, .csv or .parquet (audiences/NAME.csv near the warehouse)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the numbers; write nothing")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
