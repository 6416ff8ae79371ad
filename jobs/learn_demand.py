"""Add up the units of sales by item and week and by category and day, and forecast them when a period is complete.

reads:  events
writes: demand_units, demand_forecasts, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.learn.demand.demand_spec import DemandSpec


def body(args: argparse.Namespace) -> None:
    flow.run_stage(args, DemandSpec.stage_name())


def main(argv: list[str]) -> int:
    return job.run(body, job.stage_parser(__doc__, DemandSpec.stage_name()), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
