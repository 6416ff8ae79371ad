"""Estimate trends of spend, prices and category shares by segment or any other group of users.

reads:  events; a table with the group of each user, such as user_segments
writes: nothing; with --out an HTML page with charts
"""

import argparse
import sys
from datetime import date

from profilestream.base import files, job
from profilestream.base.session import open_session
from profilestream.serve import cohort_inputs
from profilestream.serve.trends import purchase_series, trend_estimates, trend_view


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    settings.require_people("trends")
    if args.check:
        return
    spark = open_session("serve_trends", settings.spark.properties)
    events = cohort_inputs.events(spark, settings)
    columns = {"user_id": args.user_id, "group": args.group}
    rows = cohort_inputs.read_table(spark, settings, args.groups, columns, args.where)
    groups = cohort_inputs.one_group_per_user(rows, args.groups)
    timezone = settings.derive.shop_timezone
    periods = purchase_series.full_periods(events, args.period_days, timezone, args.since, args.until)
    sums = purchase_series.sum_purchases(events, groups, periods, args.max_categories)
    trends = trend_estimates.estimate_trends(purchase_series.build_series(sums), periods.days)
    print(trend_view.as_text(trends, sums, periods, args.max_trends))
    if args.out:
        figure = trend_view.trends_figure(trends, periods, args.max_trends)
        files.write_text(spark, args.out, figure.to_html(config={"displayModeBar": False}))


def main(argv: list[str]) -> int:
    parser = cohort_inputs.parser(__doc__)
    groups = "table with one row per user: .csv, .parquet or Delta table (user_segments)"
    parser.add_argument("--groups", default="user_segments", metavar="FILE", help=groups)
    parser.add_argument("--group", default="segment_id", metavar="SQL", help="user group, over the table's columns")
    for flag, day in (("--since", "first day, in the shop time zone"), ("--until", "first day that is left out")):
        parser.add_argument(flag, type=date.fromisoformat, metavar="DAY", help=day)
    parser.add_argument("--period-days", type=int, default=7, metavar="N", help="length of a period in days (7)")
    parser.add_argument(
        "--max-categories", type=int, default=50, metavar="N", help="categories with a trend, by spend (50)"
    )
    parser.add_argument("--max-trends", type=int, default=10, metavar="N", help="trends shown per measure (10)")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
