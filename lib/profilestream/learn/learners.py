"""The learners. Jobs, the pipeline, publishing, docs and the laws in the tests read this list. Add new ones here."""

from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.learner_spec import LearnerSpec
from profilestream.learn.metrics import LATE_ROWS
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.rankers.rankers_spec import RankersSpec
from profilestream.learn.segments.segments_spec import SegmentsSpec

LEARNERS: tuple[type[LearnerSpec], ...] = (FactorsSpec, SegmentsSpec, RankersSpec, OutcomesSpec)
BY_NAME = {learner.name: learner for learner in LEARNERS}
_METRICS = (*(metric for learner in LEARNERS for metric in learner.metrics), LATE_ROWS)
METRICS = {metric.name: metric for metric in _METRICS}
