"""Change feed of sessions -> decayed counts of transitions between states, per user and over all users.

reads:  the change feed of sessions
writes: user_transitions, event_transitions; stage_batches
"""

import sys

from profilestream import flow
from profilestream.base import job

STAGE = "derive_transitions"


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, STAGE)
    return job.run(lambda args: flow.run_stage(args, STAGE), parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
