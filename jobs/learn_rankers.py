"""Purchases to rankings of items by decayed counts of baskets, updated with every micro-batch.

reads:  events
writes: basket_counts, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.learn.rankers.rankers_spec import RankersSpec


def body(args: argparse.Namespace) -> None:
    flow.run_stage(args, RankersSpec.stage_name())


def main(argv: list[str]) -> int:
    return job.run(body, job.stage_parser(__doc__, RankersSpec.stage_name()), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
