"""The features of outcomes: how columns of point_in_time.features_as_of become values of a training example."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.derive import entity_features
from profilestream.derive.entity_features import EntityFeatures
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

_NUMBERS = ("double", "bigint", "boolean")


def select_features(settings: Settings, declared: DeclaredOutcomes) -> EntityFeatures:
    """The declared features, in the order of the declaration.

    Raises:
        BadSettings: a feature does not exist, is a number with buckets, or has no buckets and is not a number; or the
            entity has another key than user_id.
    """
    features = entity_features.select_features(settings, declared.entity, tuple(declared.features))
    if features.keys != ["user_id"]:
        raise BadSettings(
            f"outcomes need an entity with the key user_id; {declared.entity!r} has {features.keys}",
            where=f"{settings.learn.outcomes.file}, entity",
            do="name an entity of users",
        )
    wrong = {
        name: features.types[name]
        for name, one in declared.features.items()
        if features.types[name] not in (("string",) if one.buckets else _NUMBERS)
    }
    if wrong:
        raise BadSettings(
            f"these features have a type that a model cannot use: {wrong}",
            where=f"{settings.learn.outcomes.file}, features",
            do="declare `buckets` for texts, and for no others; leave out times and maps",
        )
    return features


def feature_values(declared: DeclaredOutcomes) -> Column:
    """`features` of an example: an array of doubles, null if unknown; a category is crc32 of its text % buckets."""
    values = [
        F.pmod(F.crc32(name), F.lit(one.buckets)) if one.buckets else F.col(name)
        for name, one in declared.features.items()
    ]
    return F.array(*[value.cast("double") for value in values])


def populations(declared: DeclaredOutcomes) -> Column:
    """Whether a row with the features is in the population of each declared outcome, an array in their order."""
    return F.array(*[F.coalesce(F.expr(one.population), F.lit(False)) for one in declared.outcomes.values()])
