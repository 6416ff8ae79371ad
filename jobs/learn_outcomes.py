"""Examples of outcomes to models, such as the probability of a purchase in 28 days.

reads:  outcome_examples
writes: outcome_models, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec


def body(args: argparse.Namespace) -> None:
    flow.run_stage(args, OutcomesSpec.stage_name())


def main(argv: list[str]) -> int:
    return job.run(body, job.stage_parser(__doc__, OutcomesSpec.stage_name()), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
