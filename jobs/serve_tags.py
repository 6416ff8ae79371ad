"""Update the RFM segment, loyalty tier, cohort and declared tags of every user, with evidence.

reads:  events, the profile table, population_stats, user_features, user_segments; user_groups, user_tags
writes: user_groups, user_tags
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.tags import assign_tags, tag_checks, tag_declaration, tag_listing


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(assign_tags.STEP, settings.spark.properties)
    tag_checks.check(spark, settings)
    if args.compare:
        other = tag_declaration.load_for(settings, args.compare)
        tag_checks.check_declaration(spark, settings, other, args.compare)
    if args.check:
        return
    if args.compare:
        lines = tag_listing.compare(spark, settings, other)
    elif args.tag:
        lines = tag_listing.tag_users(spark, settings, args.tag)
    else:
        assign_tags.run(spark, settings)
        lines = tag_listing.tag_counts(spark, settings)
    print("\n".join(lines))


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    modes = parser.add_mutually_exclusive_group()
    compare = "write nothing; print per tag how many users have it by both files, would gain it and would lose it"
    modes.add_argument("--compare", metavar="FILE", help=compare)
    list_users = "write nothing; print the users with this tag, since when and why"
    modes.add_argument("--list-users", dest="tag", metavar="TAG", help=list_users)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
