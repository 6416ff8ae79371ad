"""Shared by the `main` of every job: command line, logging, and errors as exit codes."""

import argparse
import traceback
from collections.abc import Callable

from profilestream.base import console
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings, ProfilestreamError
from profilestream.base.language import LANGUAGES
from profilestream.base.observe import alert_rules
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings


def parser(doc: str, config: str | None = None) -> argparse.ArgumentParser:
    """A parser with the flags of every job: --config, --set, --check.

    Args:
        config: default of --config; the flag is required when null.
    """
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--config",
        required=config is None,
        default=config,
        metavar="FILE",
        help="settings (TOML), such as conf/local.toml",
    )
    arguments.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting; repeatable"
    )
    arguments.add_argument(
        "--check", action="store_true", help="check settings, mappings, SQL and paths; write nothing"
    )
    return arguments


def stream_parser(doc: str, config: str | None = None) -> argparse.ArgumentParser:
    """A parser for a job that runs streaming queries."""
    arguments = parser(doc, config)
    add = arguments.add_argument
    add("mode", nargs="?", choices=("available-now", "continuous"), default="available-now")
    add("--every", default="10s", metavar="10s", help="continuous: interval between batches (s, m)")
    add("--accept-new-epoch", action="store_true", help="read everything again although tables exist")
    add("--accept-changed-files", action="store_true", help="continue although files changed after they were read")
    add("--accept-gaps", action="store_true", help="continue after records of a topic that are no longer available")
    add("--replan", action="store_true", help="plan the unfinished batch again with the current settings")
    add("--skip-file", action="append", default=[], metavar="PATH", help="skip an unreadable file; repeatable")
    return arguments


def stage_parser(doc: str, stage: str) -> argparse.ArgumentParser:
    """A parser for the job of a derive or learn stage: the flags of streaming jobs, --rebuild and --cascade."""
    arguments = stream_parser(doc)
    rebuild = "remove the checkpoint, empty the stage's tables, and derive them again from their source"
    arguments.add_argument("--rebuild", action="store_const", const=stage, default="", help=rebuild)
    add_cascade(arguments)
    return arguments


def add_cascade(arguments: argparse.ArgumentParser) -> None:
    """Add --cascade, for parsers with --rebuild."""
    arguments.add_argument("--cascade", action="store_true", help="with --rebuild: also rebuild the stages that follow")


def add_language(arguments: argparse.ArgumentParser) -> None:
    """Add --language, for jobs that write texts for readers."""
    arguments.add_argument("--language", choices=LANGUAGES, help="language of the texts; overrides serve.language")


def options(args: argparse.Namespace) -> RunOptions:
    """The run options of the parsed flags of `stream_parser`."""
    return RunOptions(
        continuous=_seconds(args.every) if args.mode == "continuous" else None,
        accept_new_epoch=args.accept_new_epoch,
        accept_changed_units=args.accept_changed_files,
        accept_gaps=args.accept_gaps,
        replan=args.replan,
        skipped_units=tuple(args.skip_file),
        rebuild=tuple(filter(None, [getattr(args, "rebuild", "")])),
        cascade=getattr(args, "cascade", False),
    )


def load(args: argparse.Namespace) -> Settings:
    """The settings of --config, --set and --language.

    Prints a warning when other readers cannot open the path of the tables.

    Raises:
        BadSettings: the settings or the alert rules are invalid.
    """
    language = getattr(args, "language", None)
    settings = settings_module.load(args.config, [*args.set, *([f"serve.language={language}"] if language else [])])
    console.use_format(settings.observe.log_format)
    alert_rules.load(settings.observe.alerts)
    for warning in settings.paths.reader_warnings:
        console.line(f"warning: {warning}")
    return settings


def run(body: Callable[[argparse.Namespace], int | None], arguments: argparse.ArgumentParser, argv: list[str]) -> int:
    """Run a job's body; print an error and how to fix it.

    Characters that the encoding of standard output lacks are printed as escapes, such as \\u2026.

    Returns:
        The exit code of the body, or: 0 done, 2 bad settings or input, 3 refused to protect data, 130 Ctrl-C outside
        of a streaming query, 1 any other failure. After a failure, the last line on standard error states what to do.
    """
    console.escape_output()
    args = arguments.parse_args(argv)
    console.configure_logging()
    try:
        return body(args) or 0
    except ProfilestreamError as error:
        console.failure(f"failed: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        console.failure("stopped: the tables contain complete batches only; run it again to continue")
        return 130
    except Exception:
        console.failure(
            "failed: an error in profilestream or its environment, not in your settings\n"
            "  what to do: report the lines above; the tables contain complete batches only",
            traceback.format_exc(),
        )
        return 1


def _seconds(every: str) -> float:
    number, unit = every[:-1], every[-1:]
    try:
        return float(number) * {"s": 1.0, "m": 60.0}[unit]
    except (ValueError, KeyError):
        raise BadSettings(f"--every {every!r} is not an interval", where="--every", do="write 10s or 2m") from None
