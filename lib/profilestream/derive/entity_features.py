"""The selected features of an entity, and the statistics and windows that have to be folded to compute them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pyspark.sql import Column, DataFrame, SparkSession

from profilestream.base import commits
from profilestream.base.columns import Column as TableColumn
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Paths, Settings
from profilestream.derive import feature_declaration, fold_stage
from profilestream.derive.feature_declaration import (
    LIFETIME,
    TIME_KEYS,
    DeclaredFeatures,
    DerivedFeature,
    WindowFeature,
)
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable, Key, Statistic

AT = "_at"  # internal column: the time of a request


@dataclass(frozen=True)
class EntityFeatures:
    """Selected features of an entity; created by `select_features`.

    Args:
        columns: of the result, in order.
        declared: all declared features.
        tiles: the declaration of the entity's tile table.
        versions: Delta versions to read, by table name; the latest version of the other tables is read.
    """

    entity: str
    columns: tuple[str, ...]
    declared: DeclaredFeatures
    tiles: DerivedTable
    paths: Paths
    versions: dict[str, int] = field(default_factory=dict)

    def read(self, spark: SparkSession, table: Table) -> DataFrame:
        """A table at a fixed version, even if the frame is computed later."""
        version = self.versions.get(table.name)
        return table.read(
            spark, self.paths, version=commits.version(spark, table, self.paths) if version is None else version
        )

    @cached_property
    def keys(self) -> list[str]:
        """The key columns of the entity."""
        return [name for name in self.tiles.keys if name not in TIME_KEYS]

    @cached_property
    def derived(self) -> dict[str, DerivedFeature]:
        """The derived features that are selected or that selected ones use, in the order of computation."""
        declared = self.declared.derived.get(self.entity, {})
        needed = set(self.columns)
        for name, feature in reversed(declared.items()):
            needed |= feature.names if name in needed else set()
        return {name: feature for name, feature in declared.items() if name in needed}

    @property
    def needs_population(self) -> bool:
        """Whether a feature is a standard score among all entities with an event before its time."""
        return any(feature.zscore_of for feature in self.derived.values())

    @cached_property
    def window_columns(self) -> list[str]:
        """The columns of window features that are selected or that derived features use."""
        needed = {*self.columns, *(name for feature in self.derived.values() for name in feature.names)}
        return [column for column in self.declared.columns(self.entity) if column in needed]

    @cached_property
    def window_features(self) -> dict[str, WindowFeature]:
        """The feature of each window column."""
        features, columns = self.declared.features[self.entity], self.declared.columns(self.entity)
        return {column: features[columns[column][0]] for column in self.window_columns}

    @cached_property
    def sources(self) -> dict[str, tuple[str, Statistic, str]]:
        """By window column: (column of the tile table, statistic, window)."""
        paths = [(statistic, path) for path, statistic in self.tiles.statistics.items()]
        sources = {}
        for column in self.window_columns:
            statistic = self.window_features[column].statistic
            path = next(path for stored, path in paths if stored == statistic)
            sources[column] = (path, statistic, self.declared.columns(self.entity)[column][1])
        return sources

    @cached_property
    def results(self) -> dict[str, tuple[str, Statistic, str]]:
        """The different sources, by the name of the result; columns with the same source share a result."""
        return {_result(path, window): (path, statistic, window) for path, statistic, window in self.sources.values()}

    @cached_property
    def types(self) -> dict[str, str]:
        """SQL type of each column of the result."""
        types = {name: feature.type for name, feature in self.window_features.items()}
        types |= {name: feature.type for name, feature in self.derived.items()}
        return {column: types[column] for column in self.columns}

    def table_columns(self) -> tuple[TableColumn, ...]:
        """The columns of the result as columns of a Delta table, with question and unit."""
        columns = []
        for name, sql_type in self.types.items():
            if name in self.window_features:
                feature, window = self.window_features[name], self.declared.columns(self.entity)[name][1]
                period = "over the complete log" if window == LIFETIME else f"in the {window} before"
                meaning, unit = f"{feature.question} Computed {period}; {feature.empty_value}.", feature.unit
            else:
                derived = self.derived[name]
                meaning, unit = f"{derived.question} {derived.nulls}.", derived.unit
            columns.append(TableColumn(name, sql_type.upper(), meaning, unit))
        return tuple(columns)

    @cached_property
    def statistics(self) -> dict[str, Statistic]:
        """The statistics that are read, by column of the tile table."""
        return {path: statistic for path, statistic, _ in self.results.values()}

    @cached_property
    def windows(self) -> list[str]:
        """The different windows, such as `7d`, in the order of their bits in WINDOWS."""
        return list(dict.fromkeys(window for _, _, window in self.results.values()))

    @cached_property
    def fold(self) -> Fold:
        """Folds tiles and events by entity and time."""
        keys = {name: Key(of=f"_{name}", type=self.tiles.keys[name].type) for name in self.keys}
        keys |= {AT: Key(of=AT, type="timestamp")}
        statistics = {tile_state(path): statistic for path, statistic in self.statistics.items()}
        return Fold(DerivedTable(name=self.tiles.name, write="append", keys=keys, statistics=statistics))

    def value(self, column: str) -> Column:
        """A window column, over the results of the statistics."""
        path, _, window = self.sources[column]
        return self.window_features[column].value(_result(path, window)).alias(column)

    @cached_property
    def settings(self) -> str:
        """All settings that change the values, as text; the `where` condition of the tile table is not included."""
        statistics = {name: [one.model_dump(mode="json"), window] for name, (_, one, window) in self.sources.items()}
        outputs = {name: feature.output for name, feature in self.window_features.items()}
        derived = {name: feature.sql or feature.zscore_of for name, feature in self.derived.items()}
        return json.dumps([statistics, outputs, derived, self.types], sort_keys=True)


def tile_state(path: str) -> str:
    """The state column, in a flat frame, of a column of the tile table; `path` may be a field of a struct."""
    return f"_{path.replace('.', '_')}"


def _result(path: str, window: str) -> str:
    return f"{tile_state(path)}_{window}"


def select_features(settings: Settings, entity: str, columns: Sequence[str] = ()) -> EntityFeatures:
    """Features of an entity.

    Args:
        columns: names such as `purchases_30d`; empty: all features of the entity.

    Raises:
        BadSettings: no features are declared, or the entity, its tile table or a column does not exist.
    """
    declared, file = feature_declaration.declared_features(settings), settings.derive.windows.file
    if declared is None or entity not in declared.entities:
        entities = [] if declared is None else list(declared.entities)
        raise BadSettings(
            f"{entity!r} has no window features; entities with features: {entities}",
            where=file or "derive.windows.file",
            do="name one of these entities, or declare features for this one",
        )
    available = [*declared.columns(entity), *declared.derived.get(entity, {})]
    if unknown := [name for name in columns if name not in available]:
        raise BadSettings(
            f"{entity} has no features {unknown}",
            where=file,
            do="name features listed in docs/windows.md, or declare these",
        )
    tables = {one.name: one for one in fold_stage.declared_tables(settings).values()}
    tiles = tables.get(declared.entities[entity])
    if tiles is None:
        raise BadSettings(
            f"features of {entity!r} are read from {declared.entities[entity]}, which is not declared",
            where="derive.features",
            do="add the file that declares this table",
        )
    return EntityFeatures(entity, tuple(columns or available), declared, tiles, settings.paths)
