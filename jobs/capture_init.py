"""Propose a settings file and a mapping for an unknown log, and try them on a sample of it.

reads:  a file, a folder or a Delta table
writes: settings.toml and mapping.toml in the folder of --out; no file is overwritten
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.capture.detection import propose_source


def body(args: argparse.Namespace) -> None:
    propose_source.run(
        lambda: open_session("capture_init", args.spark),
        args.path,
        name=args.name,
        out=args.out,
        timezone=args.timezone,
        print_line=print,
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="PATH", help="a file, a folder of files or a Delta table")
    parser.add_argument("--name", default="", help="name of the source; default: the name of the file or folder")
    parser.add_argument("--out", default="", metavar="FOLDER", help="folder of the two files; default: conf/NAME")
    parser.add_argument(
        "--timezone", default="", metavar="ZONE", help="of times without an offset, such as Europe/Berlin"
    )
    parser.add_argument("--spark", default="conf/spark-local.conf", metavar="FILE", help="file of Spark properties")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
