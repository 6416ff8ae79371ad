"""One person in readable form: the profile, as of now or of any time.

reads:  the profile table that derive.profiles declares, population_stats, category_hours; events when a time is named
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
    profiles.of_users(settings)
    if args.check:
        return
    spark = open_session("serve_user", settings.spark.properties)
    found = user_view.of(spark, settings, args.user, as_of, known_by)
    print(profile_renderer.as_json(found) if args.json else profile_renderer.as_text(found))


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
    parser.add_argument("--user", required=True, metavar="ID", help="with its space, such as uk_gifts:12347")
    parser.add_argument("--as-of", metavar="TIME", help="only what happened before; UTC unless it names a zone")
    parser.add_argument("--known-by", metavar="TIME", help="only what had come in by then")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
