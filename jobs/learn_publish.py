"""Publish the state of a learner as a version of a registered model: champion if it passes the gate, else challenger.

First, it rolls back a champion whose rows or metric are bad.

reads:  factors, segments, basket_counts or outcome_models with outcome_examples; model_metrics, events
writes: published_factors, published_segments, published_basket_counts or published_outcome_models, and the MLflow model
        registry
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.errors import BadSettings
from profilestream.base.session import open_session
from profilestream.learn import publishing, version_aliases
from profilestream.learn.learners import BY_NAME
from profilestream.learn.publication import STAGE


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    publication = BY_NAME[args.learner](settings).publication
    if publication is None:
        raise BadSettings(f"{args.learner} is not published as a model", where="--learner", do="name another learner")
    if args.check:
        return
    if args.list:
        print("\n".join(version_aliases.version_lines(settings, publication.model_name)))
    elif args.rollback:
        print(version_aliases.roll_back(settings, publication.model_name))
    elif args.promote is not None:
        print(version_aliases.promote(settings, publication.model_name, args.promote))
    else:
        spark = open_session(STAGE, settings.spark.properties)
        print(publishing.publish(spark, settings, publication))


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--learner", choices=BY_NAME, default="factors", help="the learner (default: factors)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="list the versions with aliases and metric, and exit")
    action.add_argument("--rollback", action="store_true", help="make the previous champion the champion again")
    action.add_argument("--promote", type=int, metavar="VERSION", help="make this version the champion")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
