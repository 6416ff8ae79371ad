"""Automatic rollback of the champion by learn_publish, without MLflow and Spark."""

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from profilestream.base.settings import Gate, Settings
from profilestream.learn import champion_check
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.metrics import Metric
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion
from profilestream.learn.promotion_gate import Decision, GateMetric, GroupLosses, PairedLosses
from profilestream.learn.publication import Publication
from profilestream.learn.version_aliases import VersionTags

from tests.metric_rows import metric_rows

METRIC = GateMetric("learner", Metric("recall_20", "share", "users", "Recall."), "m", Gate(eval_batches=20))
FIELDS: dict[str, Any] = {"model_name": "model", "gate_metric": METRIC, "max_growth": 10.0, "paired_losses": None}
PUBLICATION = cast(Publication, SimpleNamespace(**FIELDS))
SETTINGS, NO_SPARK = cast(Settings, None), cast(Any, None)
# Good until batch 39; the champion was published after it, and then the metric falls by a tenth.
FALLING = np.repeat([0.5, 0.45], [40, 6]) + np.tile([0.001, -0.001], 23)


class Registry:
    """A registered model in memory: version 1 after batch 19, version 2 after batch 39."""

    def __init__(self, champion: int = 2, previous: int | None = 1, norm: float = 1.0, valid_from: int = -1) -> None:
        self.aliases: dict[str, int | None] = {"champion": champion, "previous": previous}
        self.tags = {
            number: VersionTags(
                "new", batch_id, 0, "m", "recall_20", "", "", norms=json.dumps({"v": v}), rows="stored",
                valid_from=valid_from,
            ).as_dict()
            for number, batch_id, v, valid_from in ((1, 19, 1.0, 50), (2, 39, norm, valid_from))
        }  # fmt: skip

    def versions(self) -> list[RegisteredVersion]:
        return [
            RegisteredVersion(number, tuple(name for name, n in self.aliases.items() if n == number), tags)
            for number, tags in self.tags.items()
        ]

    def set_alias(self, alias: str, version: int | None) -> None:
        self.aliases[alias] = version

    def set_tags(self, version: int, tags: dict[str, str]) -> None:
        self.tags[version] |= tags


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Champions that were exported, and whether by a rollback."""
    calls: list[tuple[int, bool]] = []

    def export(settings: Settings, model: str, version: int, *, is_rollback: bool = False) -> None:
        calls.append((version, is_rollback))

    monkeypatch.setattr(champion_check, "export_champion", export)
    return calls


def roll_back(registry: Registry, values: Floats, publication: Publication = PUBLICATION) -> list[str]:
    rows, model = metric_rows("new", "m", values), cast(RegisteredModel, registry)
    return champion_check.roll_back_bad_champion(NO_SPARK, SETTINGS, publication, model, rows)


def test_a_champion_whose_metric_fell_is_rolled_back_with_the_reason(exported: list[tuple[int, bool]]) -> None:
    registry = Registry()
    problem, message = roll_back(registry, FALLING)
    assert problem.startswith("problem of the champion, version 2: recall_20 of m since version 2 is 0.4500")
    assert message == "version 1 is the champion again; version 2 is the challenger"
    assert registry.aliases == {"champion": 1, "challenger": 2, "previous": None}
    assert VersionTags.of(registry.versions()[1]).problem == problem
    assert exported == [(1, True)]
    assert roll_back(registry, FALLING) == [] and len(exported) == 1


@pytest.mark.parametrize(
    ("norm", "text"), [(np.nan, "a value of v is NaN or infinite"), (11.0, "more than 10 times 1")]
)
def test_a_champion_with_bad_numbers_is_rolled_back(norm: float, text: str, exported: list[tuple[int, bool]]) -> None:
    registry = Registry(norm=norm)
    assert text in roll_back(registry, np.full(40, 0.5))[0]
    assert registry.aliases["champion"] == 1 and exported == [(1, True)]


def test_a_good_champion_stays_and_one_without_a_version_before_it_is_only_reported(
    exported: list[tuple[int, bool]],
) -> None:
    assert roll_back(Registry(), np.full(60, 0.5)) == []
    alone = Registry(previous=None, norm=np.inf)
    (line,) = roll_back(alone, np.full(60, 0.5))
    assert line.endswith("a value of v is NaN or infinite; there is no version before it")
    assert alone.aliases["champion"] == 2 and exported == []


@pytest.mark.parametrize(("valid_from", "since"), [(60, 60), (40, 50), (-1, None)])
def test_both_versions_are_compared_on_rows_that_neither_has_learned(
    valid_from: int, since: int | None, exported: list[tuple[int, bool]]
) -> None:
    """Version 1 is valid from 50 on. An old version without this tag is compared by periods, in which it is as good."""
    calls = []

    def paired_losses(champion: Any, previous: Any, after: int) -> PairedLosses:
        calls.append((champion, previous, after))
        rows = np.full(50, 10.0)
        return PairedLosses("loss", GroupLosses(0.5 * rows, rows), GroupLosses(0.3 * rows, rows))

    fields = FIELDS | {"paired_losses": paired_losses, "rows_of_version": lambda _spark, _settings, number: number}
    messages = roll_back(
        Registry(valid_from=valid_from), np.full(60, 0.5), cast(Publication, SimpleNamespace(**fields))
    )
    assert calls == ([] if since is None else [(2, 1, since)])
    assert [text[:72] for text in messages[:1]] == (
        [] if since is None else ["problem of the champion, version 2: loss in 500 rows after version 2 is "]
    )
    assert exported == ([] if since is None else [(1, True)])


def decide(registry: Registry, values: Floats, norms: str = '{"v": 1.0}') -> Decision:
    """About the state after the last batch."""
    rows, versions, last = metric_rows("new", "m", values), registry.versions(), len(values) - 1
    candidate = champion_check.batches_of_state(METRIC, rows, versions, "new", last)
    champion = next(version for version in versions if "champion" in version.aliases)
    tags = VersionTags("new", last, 0, "m", "recall_20", "", "", norms=norms)
    return champion_check.decide(PUBLICATION, rows, champion, candidate, tags, "")


def test_after_a_rollback_the_batches_before_the_bad_version_do_not_help_the_state(exported: list[Any]) -> None:
    """The mean over 20 batches is within the tolerance, because 14 of them are from before the bad version."""
    registry = Registry()
    assert decide(Registry(champion=1), FALLING).passes
    roll_back(registry, FALLING)
    passes, reason = decide(registry, FALLING)
    assert not passes and "is 0.4500, needed at least 0.4750" in reason
    assert decide(registry, np.append(FALLING, np.full(20, 0.5))).passes


@pytest.mark.parametrize("norms", ['{"v": NaN}', '{"v": Infinity}', '{"v": 10.5}'])
def test_a_state_with_bad_numbers_is_never_promoted(norms: str) -> None:
    good = np.full(60, 0.5)
    assert decide(Registry(), good).passes
    assert not decide(Registry(), good, norms).passes
    first = VersionTags("new", 0, 0, "m", "recall_20", "", "", norms=norms)
    without_champion = champion_check.decide(PUBLICATION, metric_rows("new", "m", good), None, NO_SPARK, first, "")
    assert without_champion.passes == ("10.5" in norms)


def test_in_a_label_drought_only_the_first_version_is_promoted() -> None:
    rows, champion = metric_rows("new", "m", np.full(60, 0.5)), Registry().versions()[0]
    tags = VersionTags("new", 59, 0, "m", "recall_20", "", "", norms="{}")
    candidate = METRIC.batches(rows, "new")
    assert champion_check.decide(PUBLICATION, rows, champion, candidate, tags, "drought") == Decision(False, "drought")
    assert champion_check.decide(PUBLICATION, rows, None, candidate, tags, "drought").passes
