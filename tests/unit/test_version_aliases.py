"""Aliases of a registered model, without MLflow: which versions get them by a rollback or a promotion."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.learn import model_registry, version_aliases
from profilestream.learn.model_registry import RegisteredVersion

NO_SETTINGS = cast(Settings, None)


class Registry:
    """A registered model in memory.

    Args:
        rows: the tag `rows` by version.
        aliases: version by alias.
        norms: the tag `norms` by version.
    """

    where = "memory"

    def __init__(self, rows: dict[int, str], aliases: dict[str, int], norms: dict[int, str] | None = None) -> None:
        self.rows, self.aliases, self.norms = rows, aliases, norms or {}

    def versions(self) -> list[RegisteredVersion]:
        def aliases_of(number: int) -> tuple[str, ...]:
            return tuple(alias for alias, version in self.aliases.items() if version == number)

        return [
            RegisteredVersion(
                n, aliases_of(n), {"profilestream.rows": rows, "profilestream.norms": self.norms.get(n, "")}
            )
            for n, rows in self.rows.items()
        ]

    def set_alias(self, alias: str, version: int | None) -> None:
        self.aliases.pop(alias, None)
        if version is not None:
            self.aliases[alias] = version


@pytest.fixture
def roll_back(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(
        rows: dict[int, str], aliases: dict[str, int], norms: dict[int, str] | None = None
    ) -> tuple[str, dict[str, int]]:
        registry = Registry(rows, aliases, norms)

        @contextmanager
        def open_model(settings: Settings, name: str) -> Iterator[Registry]:
            yield registry

        def export(settings: Settings, name: str, version: int, *, is_rollback: bool) -> None:
            exported.append((name, version, is_rollback))

        exported: list[tuple[str, int, bool]] = []
        monkeypatch.setattr(model_registry, "open_model", open_model)
        monkeypatch.setattr(version_aliases, "export_champion", export)
        message = version_aliases.roll_back(NO_SETTINGS, "factors")
        assert exported == [("factors", registry.aliases["champion"], True)]
        return message, registry.aliases

    return call


@pytest.mark.parametrize(
    ("aliases", "after", "message"),
    [
        (
            {"champion": 2, "previous": 1},
            {"champion": 1, "challenger": 2},
            "version 1 is the champion again; version 2 is the challenger",
        ),
        ({"previous": 1}, {"champion": 1}, "version 1 is the champion again"),
        # The alias still points to the deleted version 9.
        ({"champion": 9, "previous": 1}, {"champion": 1}, "version 1 is the champion again"),
        ({"previous": 1, "challenger": 2}, {"champion": 1, "challenger": 2}, "version 1 is the champion again"),
    ],
)
def test_the_previous_champion_becomes_the_champion(
    roll_back: Any, aliases: dict[str, int], after: dict[str, int], message: str
) -> None:
    assert roll_back({1: "stored", 2: "stored"}, aliases) == (message, after)


@pytest.mark.parametrize(
    ("rows", "aliases"),
    [
        ({}, {}),
        ({1: "stored"}, {"champion": 1}),
        ({1: "stored"}, {"champion": 1, "previous": 1}),
        ({2: "stored"}, {"champion": 2, "previous": 1}),
        ({1: "removed"}, {"previous": 1}),
        ({1: "", 2: "stored"}, {"champion": 2, "previous": 1}),
    ],
)
def test_a_rollback_without_a_previous_champion_with_rows_is_an_error(
    roll_back: Any, rows: dict[int, str], aliases: dict[str, int]
) -> None:
    with pytest.raises(BadSettings, match="there is no previous champion"):
        roll_back(rows, aliases)


NORMS = {1: '{"vector": NaN}', 2: '{"vector": Infinity}', 3: '{"vector": 2.0}'}


@pytest.mark.parametrize("previous", [1, 2])
def test_a_version_with_a_nan_is_not_restored(roll_back: Any, previous: int) -> None:
    rows = dict.fromkeys(NORMS, "stored")
    with pytest.raises(BadSettings, match="there is no previous champion"):
        roll_back(rows, {"champion": 3, "previous": previous}, NORMS)
    assert roll_back(rows, {"champion": previous, "previous": 3}, NORMS)[1] == {"champion": 3, "challenger": previous}


def test_a_version_with_a_nan_is_not_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(dict.fromkeys(NORMS, "stored"), {"champion": 3}, NORMS)

    @contextmanager
    def open_model(settings: Settings, name: str) -> Iterator[Registry]:
        yield registry

    monkeypatch.setattr(model_registry, "open_model", open_model)
    for number in (1, 2):
        with pytest.raises(BadSettings, match=f"there is no version {number} with finite rows"):
            version_aliases.promote(NO_SETTINGS, "factors", number)
    assert registry.aliases == {"champion": 3}
