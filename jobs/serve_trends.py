"""How prices, shares of categories and spend move over time, by segment or any other group of users.

reads:  events; and which group each user is in, such as user_segments
writes: nothing; with --out a page with pictures
"""

import argparse
import sys
from datetime import date
from pathlib import Path

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve import cohort_inputs
from profilestream.serve.trends import trend_estimates, trend_view


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        return
    spark = open_session("serve_trends", settings.spark.properties)
    events = cohort_inputs.events(spark, settings)
    columns = {"user_id": args.user_id, "group": args.group}
    groups = cohort_inputs.one_each(cohort_inputs.read(spark, settings, args.groups, columns, args.where), args.groups)
    span = trend_estimates.periods(events, args.every, settings.derive.shop_timezone, args.since, args.until)
    sums = trend_estimates.sums(events, groups, span, args.categories)
    found = trend_estimates.trends(trend_estimates.series(sums), span.days)
    print(trend_view.as_text(found, sums, span, args.movers))
    if args.out:
        Path(args.out).write_text(
            trend_view.picture(found, span, args.movers).to_html(config={"displayModeBar": False})
        )


def main(argv: list[str]) -> int:
    parser = cohort_inputs.parser(__doc__)
    groups = "a row a user: .csv, .parquet, Delta table (user_segments)"
    parser.add_argument("--groups", default="user_segments", metavar="FILE", help=groups)
    parser.add_argument("--group", default="segment_id", metavar="SQL", help="the user's group, over its columns")
    for flag, which in (("--since", "first day, where the shop is"), ("--until", "first day that does not count")):
        parser.add_argument(flag, type=date.fromisoformat, metavar="DAY", help=which)
    parser.add_argument("--every", type=int, default=7, metavar="DAYS", help="length of a period (7)")
    parser.add_argument("--categories", type=int, default=50, metavar="N", help="largest ones that are told apart (50)")
    parser.add_argument("--movers", type=int, default=10, metavar="N", help="shown of each measure (10)")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
