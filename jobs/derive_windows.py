"""Tiles of users -> user_features: one row a user, features as of the newest event.

reads:  user_hours, or what the settings name as the tiles of users; events
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
