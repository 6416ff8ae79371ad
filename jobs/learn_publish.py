"""What a learner has learned, as a version of a registered model: champion when it is good enough, else challenger.

reads:  factors or segments, model_metrics
writes: published_factors or published_segments, and the registry of MLflow
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.learn import model_versions, published_factors, published_segments, publishing

LEARNERS = {"factors": published_factors.publishable, "segments": published_segments.publishable}


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    of = LEARNERS[args.learner](settings)
    if args.check:
        return
    if args.list:
        print("\n".join(model_versions.listed(settings, of.name)))
    elif args.rollback:
        print(model_versions.roll_back(settings, of.name))
    elif args.champion is not None:
        print(model_versions.promote(settings, of.name, args.champion))
    else:
        spark = open_session(publishing.STAGE, settings.spark.properties)
        print(publishing.publish(spark, settings, of))


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--learner", choices=LEARNERS, default="factors", help="whose (default: factors)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="only tell the versions, their aliases and quality")
    instead.add_argument("--rollback", action="store_true", help="only make the champion before this one champion")
    instead.add_argument("--champion", type=int, metavar="VERSION", help="only make this version champion")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
