"""Events -> hour tiles of users, items, categories and brands.

reads:  events
writes: the tables that derive.features declares, such as user_hours, item_hours, category_hours; stage_batches
"""

import sys

from profilestream import flow
from profilestream.base import job

STAGE = "derive_features"


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, STAGE)
    return job.run(lambda args: flow.run_stage(args, STAGE), parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
