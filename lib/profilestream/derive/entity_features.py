"""Which window features are asked for, and what has to be merged for them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pyspark.sql import Column, DataFrame, SparkSession

from profilestream.base import commits
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Paths, Settings
from profilestream.base.tables import Table
from profilestream.derive import feature_declaration, fold_stage
from profilestream.derive.feature_declaration import TIMES, Combined, Feature, Windows
from profilestream.derive.fold import Fold
from profilestream.derive.statistics import Count, Extreme, Moments, Sum
from profilestream.derive.table_declaration import Derived, Key, Statistic

AT, MASK = "_at", "_windows"


@dataclass(frozen=True)
class Features:
    """Chosen features of an entity. Ask for them by `chosen`.

    Args:
        columns: of the result, in order.
        tiles: the declaration that carries them.
        versions: of tables, as a batch's plan pins them; the newest of those that are not named.
    """

    entity: str
    columns: tuple[str, ...]
    windows: Windows
    tiles: Derived
    paths: Paths
    versions: dict[str, int] = field(default_factory=dict)

    def read(self, spark: SparkSession, table: Table) -> DataFrame:
        """A table, at one version however late it is computed."""
        version = self.versions.get(table.name)
        return table.read(
            spark, self.paths, version=commits.version(spark, table, self.paths) if version is None else version
        )

    @cached_property
    def keys(self) -> list[str]:
        """Columns that name an entity."""
        return [name for name in self.tiles.keys if name not in TIMES]

    @cached_property
    def combined(self) -> dict[str, Combined]:
        """Features over others that are needed, in the order in which they are worked out."""
        every = self.windows.derived.get(self.entity, {})
        needed = set(self.columns)
        for name, one in reversed(every.items()):
            needed |= one.names if name in needed else set()
        return {name: one for name, one in every.items() if name in needed}

    @property
    def has_population(self) -> bool:
        """Whether a feature is told against all entities that were seen before its time."""
        return any(one.zscore_of for one in self.combined.values())

    @cached_property
    def plain(self) -> list[str]:
        """Columns over windows that are needed."""
        needed = {*self.columns, *(name for one in self.combined.values() for name in one.names)}
        return [column for column in self.windows.columns(self.entity) if column in needed]

    @cached_property
    def states(self) -> dict[str, tuple[str, Statistic, str]]:
        """What has to be merged, each once: name -> (column of the tiles, statistic, window)."""
        return {_state(path, window): (path, one, window) for path, one, window in self.sources.values()}

    @cached_property
    def sources(self) -> dict[str, tuple[str, Statistic, str]]:
        """The same by the columns that are told from it."""
        paths = [(one, path) for path, one in self.tiles.statistics.items()]
        found = {}
        for column in self.plain:
            statistic = self.declared[column].statistic
            path = next(path for one, path in paths if one == statistic)
            found[column] = (path, statistic, self.windows.columns(self.entity)[column][1])
        return found

    @cached_property
    def declared(self) -> dict[str, Feature]:
        """The feature of each column over windows."""
        features, columns = self.windows.features[self.entity], self.windows.columns(self.entity)
        return {column: features[columns[column][0]] for column in self.plain}

    @cached_property
    def types(self) -> dict[str, str]:
        """SQL type of each column of the result."""
        found = {name: one.type for name, one in self.declared.items()}
        found |= {name: one.type for name, one in self.combined.items()}
        return {column: found[column] for column in self.columns}

    @cached_property
    def statistics(self) -> dict[str, Statistic]:
        """The columns of the tiles that are read."""
        return {path: statistic for path, statistic, _ in self.states.values()}

    @property
    def are_numbers(self) -> bool:
        """Whether all states are a few numbers, which are merged as fast as they are read."""
        return all(isinstance(one, Count | Sum | Extreme | Moments) for one in self.statistics.values())

    @cached_property
    def lengths(self) -> list[str]:
        """The windows, in the order of the bits that stand for them."""
        return list(dict.fromkeys(window for _, _, window in self.states.values()))

    @cached_property
    def fold(self) -> Fold:
        """Merges the states of an entity and a time; they are decayed to that time beforehand."""
        return self.folding({name: _undecayed(statistic) for name, (_, statistic, _) in self.states.items()})

    @cached_property
    def fold_of_pieces(self) -> Fold:
        """The same for an entity, a time and the windows to which pieces belong."""
        statistics = {plain(path): _undecayed(one) for path, one in self.statistics.items()}
        return self.folding(statistics, by_windows=True)

    def folding(self, statistics: dict[str, Statistic], *, by_windows: bool = False) -> Fold:
        """A fold of statistics by entity and time, and by windows if asked for."""
        keys = {name: Key(of=f"_{name}", type=self.tiles.keys[name].type) for name in self.keys}
        keys |= {AT: Key(of=AT, type="timestamp")}
        keys |= {MASK: Key(of=MASK, type="bigint")} if by_windows else {}
        return Fold.of(Derived(name=self.tiles.name, write="append", keys=keys, statistics=statistics))

    def value(self, column: str) -> Column:
        """A column over windows, over what the statistics say."""
        path, _, window = self.sources[column]
        return self.declared[column].value(_state(path, window)).alias(column)

    @cached_property
    def settings(self) -> str:
        """All that changes their values, in readable form; but for the events that the tiles pass over."""
        plain = {name: [one.model_dump(mode="json"), window] for name, (_, one, window) in self.sources.items()}
        told = {name: feature.reading for name, feature in self.declared.items()}
        over = {name: one.sql or one.zscore_of for name, one in self.combined.items()}
        return json.dumps([plain, told, over, self.types], sort_keys=True)


def plain(path: str) -> str:
    """A column of the tiles as a column of pieces, where no facet is."""
    return f"_{path.replace('.', '_')}"


def _state(path: str, window: str) -> str:
    return f"{plain(path)}_{window}"


def _undecayed(statistic: Statistic) -> Statistic:
    return statistic if statistic.half_life is None else statistic.model_copy(update={"half_life_days": None})


def chosen(settings: Settings, entity: str, columns: Sequence[str] = ()) -> Features:
    """Features of an entity by the names of their columns, such as `purchases_30d`; all of them when none is named.

    Raises:
        BadSettings: there is no such entity or column, or the settings declare no windows.
    """
    found, file = feature_declaration.declared(settings), settings.derive.windows.file
    if found is None or entity not in found.entities:
        entities = [] if found is None else list(found.entities)
        raise BadSettings(
            f"there are no window features of {entity!r}, but of {entities}",
            where=file or "derive.windows.file",
            do="name one of these, or declare it",
        )
    every = [*found.columns(entity), *found.derived.get(entity, {})]
    if foreign := [name for name in columns if name not in every]:
        raise BadSettings(
            f"{entity} has no features {foreign}", where=file, do="choose among docs/windows.md, or declare them"
        )
    tiles = next(one for one in fold_stage.declared(settings).values() if one.name == found.entities[entity])
    return Features(entity, tuple(columns or every), found, tiles, settings.paths)
