"""What learn_factors has learned, as a version of a registered model: champion when it is good enough, else challenger.

reads:  factors, model_quality
writes: published_factors, and the registry of MLflow
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.learn import gate


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        return
    if args.list:
        print("\n".join(gate.listed(settings)))
    elif args.rollback:
        print(gate.roll_back(settings))
    elif args.champion is not None:
        print(gate.crown(settings, args.champion))
    else:
        spark = open_session(gate.STAGE, settings.spark.properties)
        print(gate.publish(spark, settings))


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="only tell the versions, their aliases and quality")
    instead.add_argument("--rollback", action="store_true", help="only make the champion before this one champion")
    instead.add_argument("--champion", type=int, metavar="VERSION", help="only make this version champion")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
