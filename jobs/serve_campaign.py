"""What a campaign or coupon did to the users whom it reached, against users who were like them when it began.

reads:  events; and whom the campaign reached
writes: nothing; with --out a page with pictures
"""

import argparse
import sys
from datetime import date, timedelta
from pathlib import Path

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve import cohort_inputs
from profilestream.serve.campaigns import campaign_users, campaign_view
from profilestream.serve.campaigns.campaign_effect import Campaign
from profilestream.serve.campaigns.matching import Matching


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    derived = campaign_users.profile(settings)
    campaign = Campaign(args.start, args.end + timedelta(days=1), settings.derive.shop_timezone)
    how = Matching(args.caliper, args.draws, seed=args.seed)
    if args.check:
        return
    spark = open_session("serve_campaign", settings.spark.properties)
    events = cohort_inputs.events(spark, settings)
    treated = cohort_inputs.read(spark, settings, args.users, {"user_id": args.user_id}, args.where)
    study, placebo = campaign_users.studied(events, treated, campaign, derived, how, args.most)
    print(campaign_view.as_text(study, placebo, how))
    if args.out:
        Path(args.out).write_text(campaign_view.picture(study, placebo).to_html(config={"displayModeBar": False}))


def main(argv: list[str]) -> int:
    parser = cohort_inputs.parser(__doc__)
    parser.add_argument("--users", required=True, metavar="FILE", help="who was treated: .csv, .parquet, Delta table")
    for flag, which in (("--start", "first day of the campaign, where the shop is"), ("--end", "last day")):
        parser.add_argument(flag, required=True, type=date.fromisoformat, metavar="DAY", help=which)
    parser.add_argument("--caliper", type=float, default=0.2, metavar="X", help="see docs/campaigns.md (0.2)")
    parser.add_argument("--draws", type=int, default=2000, metavar="N", help="of the bootstrap (2000)")
    parser.add_argument("--most", type=int, default=10_000, metavar="N", help="users of each side (10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (0)")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
