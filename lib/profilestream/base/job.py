"""What every job's `main` shares: the command line, logging, and errors as exit codes with a last line that helps."""

import argparse
import logging
import sys
import traceback
from collections.abc import Callable

from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings, ProfilestreamError
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings


def parser(doc: str, config: str | None = None) -> argparse.ArgumentParser:
    """A parser with the flags that every job has: --config, --set, --check."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--config",
        required=config is None,
        default=config,
        metavar="FILE",
        help="settings (TOML), such as conf/local.toml",
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting; repeatable"
    )
    made.add_argument("--check", action="store_true", help="check settings, mappings, SQL and paths; write nothing")
    return made


def stream_parser(doc: str, config: str | None = None) -> argparse.ArgumentParser:
    """A parser for a job that runs streaming queries."""
    made = parser(doc, config)
    made.add_argument("mode", nargs="?", choices=("available-now", "continuous"), default="available-now")
    made.add_argument("--every", default="10s", metavar="10s", help="continuous: a batch every so often (s, m)")
    made.add_argument("--accept-new-epoch", action="store_true", help="read everything again over existing tables")
    made.add_argument("--accept-changed-files", action="store_true", help="go on although files changed after reading")
    made.add_argument("--replan", action="store_true", help="begin the unfinished batch anew with today's settings")
    made.add_argument("--skip-file", action="append", default=[], metavar="PATH", help="pass over an unreadable file")
    return made


def stage_parser(doc: str, stage: str) -> argparse.ArgumentParser:
    """A parser for the job of a derive or learn stage: streaming flags, --rebuild and --cascade."""
    made = stream_parser(doc)
    again = "remove the checkpoint, empty the stage's tables, and derive them again from their source"
    made.add_argument("--rebuild", action="store_const", const=stage, default="", help=again)
    made.add_argument("--cascade", action="store_true", help="with --rebuild: rebuild the stages that follow it too")
    return made


def options(args: argparse.Namespace) -> RunOptions:
    """What the flags of `stream_parser` ask for."""
    return RunOptions(
        continuous=_seconds(args.every) if args.mode == "continuous" else None,
        accept_new_epoch=args.accept_new_epoch,
        accept_changed_files=args.accept_changed_files,
        replan=args.replan,
        skip_files=tuple(args.skip_file),
        rebuild=tuple(filter(None, [getattr(args, "rebuild", "")])),
        cascade=getattr(args, "cascade", False),
    )


def load(args: argparse.Namespace) -> Settings:
    """The settings that --config and --set name."""
    return settings_module.load(args.config, args.set)


def run(body: Callable[[argparse.Namespace], None], made: argparse.ArgumentParser, argv: list[str]) -> int:
    """Run a job's body and say how it went.

    Returns:
        0 done, 2 bad settings or input, 3 refused to protect data, 1 any other failure. On failure the last line on
        standard error says what to do.
    """
    args = made.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in ("py4j", "pyspark"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        body(args)
    except ProfilestreamError as error:
        print(f"\nfailed: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception:
        traceback.print_exc()
        told = "\nfailed, and not by a mistake of yours as far as we know\n  what to do: report the lines above; "
        print(f"{told}the tables hold whole batches only", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _seconds(every: str) -> float:
    number, unit = every[:-1], every[-1:]
    try:
        return float(number) * {"s": 1.0, "m": 60.0}[unit]
    except (ValueError, KeyError):
        raise BadSettings(f"--every {every!r} is not a time", where="--every", do="write 10s or 2m") from None
