"""Events -> profiles, one row per user.

reads:  events
writes: the tables that derive.profiles declares, such as user_profiles; stage_batches
"""

import sys

from profilestream import flow
from profilestream.base import job

STAGE = "derive_profiles"


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, STAGE)
    return job.run(lambda args: flow.run_stage(args, STAGE), parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
