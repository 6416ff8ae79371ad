"""What every user is called, with evidence: RFM segment, loyalty tier, cohort, and the tags that a file declares.

reads:  the profile table, population_stats, user_features, user_segments; user_groups, user_tags
writes: user_groups, user_tags
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.tags import assign_tags, tag_checks, tag_declaration, tag_listing


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(assign_tags.STAGE, settings.spark.properties)
    tag_checks.check(spark, settings)
    if args.compare:
        other = tag_declaration.load(args.compare, settings.derive.names)
        tag_checks.check_declared(spark, settings, other, args.compare)
    if args.check:
        return
    if args.compare:
        lines = tag_listing.compared(spark, settings, other)
    elif args.tag:
        lines = tag_listing.holders(spark, settings, args.tag)
    else:
        assign_tags.run(spark, settings)
        lines = tag_listing.shares(spark, settings)
    print("\n".join(lines))


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    instead = parser.add_mutually_exclusive_group()
    look = "write nothing, but tell of each tag how many users would have it by this file, gain it and lose it"
    instead.add_argument("--compare", metavar="FILE", help=look)
    instead.add_argument("--list", dest="tag", metavar="TAG", help="write nothing, but tell who has this tag, and why")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
