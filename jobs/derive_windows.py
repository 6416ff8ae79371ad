"""Tiles of users -> user_features: one row per user, features as of the latest event.

reads:  user_hours, or the tile table of users that the settings name; events
writes: user_features; stage_batches
"""

import sys

from profilestream import flow
from profilestream.base import job

STAGE = "derive_windows"


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, STAGE)
    return job.run(lambda args: flow.run_stage(args, STAGE), parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
