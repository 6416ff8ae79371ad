"""Estimate the effect of a campaign on the users whom it reached, by comparison with similar users.

reads:  events; a table of the users whom the campaign reached
writes: nothing; with --out an HTML page with charts
"""

import argparse
import sys
from datetime import date, timedelta

from profilestream.base import files, job
from profilestream.base.session import open_session
from profilestream.serve import cohort_inputs
from profilestream.serve.campaigns import campaign_users, campaign_view
from profilestream.serve.campaigns.campaign_effect import Campaign
from profilestream.serve.campaigns.matching import MatchingConfig


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    settings.require_people("campaigns")
    derived = campaign_users.profile_table(settings)
    campaign = Campaign(args.start, args.end + timedelta(days=1), settings.derive.shop_timezone)
    config = MatchingConfig(args.caliper, args.resamples, seed=args.seed)
    if args.check:
        return
    spark = open_session("serve_campaign", settings.spark.properties)
    events = cohort_inputs.events(spark, settings)
    treated = cohort_inputs.read_table(spark, settings, args.users, {"user_id": args.user_id}, args.where)
    study, placebo = campaign_users.study_campaign(events, treated, campaign, derived, config, args.max_users)
    print(campaign_view.as_text(study, placebo, config))
    if args.out:
        figure = campaign_view.study_figure(study, placebo)
        files.write_text(spark, args.out, figure.to_html(config={"displayModeBar": False}))


def main(argv: list[str]) -> int:
    parser = cohort_inputs.parser(__doc__)
    parser.add_argument(
        "--users", required=True, metavar="FILE", help="users whom the campaign reached: .csv, .parquet or Delta table"
    )
    for flag, day in (("--start", "first day of the campaign, in the shop time zone"), ("--end", "its last day")):
        parser.add_argument(flag, required=True, type=date.fromisoformat, metavar="DAY", help=day)
    parser.add_argument("--caliper", type=float, default=0.2, metavar="X", help="see docs/campaigns.md (0.2)")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap samples (2000)")
    parser.add_argument(
        "--max-users", type=int, default=10_000, metavar="N", help="maximum of treated and of untreated users (10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of bootstrap and user samples (0)")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
