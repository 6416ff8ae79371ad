"""Print the view of one user: profile, tags, segment and recommendations, as of now or any earlier time.

reads:  events, the profile table of derive.profiles, population_stats, category_hours, user_tags, user_groups,
        user_segments, segments, segment_descriptions, recommendations
writes: nothing
"""

import argparse
import sys
from datetime import UTC, datetime

from profilestream.base import job
from profilestream.base.errors import BadSettings
from profilestream.base.session import open_session
from profilestream.derive import profiles
from profilestream.serve.users import profile_renderer, user_view


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    as_of, known_by = (_time(flag, text) for flag, text in (("--as-of", args.as_of), ("--known-by", args.known_by)))
    profiles.profile_table(settings)
    if args.check:
        return
    spark = open_session("serve_user", settings.spark.properties)
    view = user_view.read(spark, settings, args.user, as_of, known_by)
    print(profile_renderer.as_json(view) if args.json else profile_renderer.as_text(view))


def _time(flag: str, text: str | None) -> datetime | None:
    try:
        time = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise BadSettings(
            f"{text!r} is not a time", where=flag, do="write 2011-06-01 or 2011-06-01T12:00 (UTC)"
        ) from None
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--user", required=True, metavar="ID", help="user id with its prefix, such as uk_gifts:12347")
    parser.add_argument("--as-of", metavar="TIME", help="use only events before this time; UTC unless it has an offset")
    parser.add_argument(
        "--known-by", metavar="TIME", help="use only events ingested and tables written up to this time"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
