"""Events -> sessions: one row per session, exact for late events too.

reads:  events
writes: sessions; stage_batches
"""

import sys

from profilestream import flow
from profilestream.base import job

STAGE = "derive_sessions"


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, STAGE)
    return job.run(lambda args: flow.run_stage(args, STAGE), parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
