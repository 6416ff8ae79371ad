"""Print the view of one user, or write it as one HTML page, as of now or any earlier time.

It begins with who the user is in a few sentences. Then: what is unusual and what changed, scores and lists of items
with reasons, the last days, tags, segment, and all values of the profile.

reads:  events, the profile table of derive.profiles, population_stats, category_hours, user_tags, user_groups,
        user_segments, segments, segment_descriptions, user_scores, unusual_activity, recommendations
writes: nothing, or the page of --html
"""

import argparse
import sys
from datetime import UTC, datetime

from profilestream.base import files, job
from profilestream.base.errors import BadSettings
from profilestream.base.language import use_language
from profilestream.base.session import open_session
from profilestream.derive import profiles
from profilestream.serve.users import profile_renderer, user_page, user_view


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    as_of, known_by = (_time(flag, text) for flag, text in (("--as-of", args.as_of), ("--known-by", args.known_by)))
    profiles.profile_table(settings)
    if args.check:
        return
    spark = open_session("serve_user", settings.spark.properties)
    with use_language(settings.serve.language):
        view = user_view.read(spark, settings, args.user, as_of, known_by)
        render = user_page.as_html if args.html else profile_renderer.as_json if args.json else profile_renderer.as_text
        text = render(view)
    if args.html:
        files.write_text(spark, args.html, text)
        print(f"open in a browser: {args.html}")
    else:
        print(text)


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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON instead of text")
    form.add_argument("--html", default="", metavar="FILE", help="write one HTML page, which needs no other file")
    job.add_language(parser)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
