"""Write recommendation lists with scores and reasons, from one version of each model and one of the profiles.

reads:  factors (or a published version), basket_counts, the profile table, events (what users bought)
writes: recommendations
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.scores import recommend


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        return
    spark = open_session(recommend.STEP, settings.spark.properties)
    if args.item or args.user:
        side, key = ("item", args.item) if args.item else ("user", args.user)
        for name, cosine in recommend.similar(spark, settings, side, key, settings.serve.scores.top_k):
            print(f"{cosine:6.3f}  {name}")
        return
    print(
        f"{recommend.run(spark, settings):,} users have recommendations in {settings.paths.warehouse}/recommendations"
    )


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--similar-items", dest="item", metavar="ID", help="write nothing; print the most similar items")
    modes.add_argument("--similar-users", dest="user", metavar="ID", help="write nothing; print the most similar users")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
