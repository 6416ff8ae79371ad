"""The features of outcomes: how columns of point_in_time.features_as_of become values of a training example."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.derive import entity_features
from profilestream.derive.entity_features import EntityFeatures
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

ENTITY = "user"
_NUMBERS = ("double", "bigint", "boolean")


def select_features(settings: Settings, declared: DeclaredOutcomes) -> EntityFeatures:
    """The declared features of users, in the order of the declaration.

    Raises:
        BadSettings: a feature does not exist, is a number with buckets, or has no buckets and is not a number.
    """
    features = entity_features.select_features(settings, ENTITY, tuple(declared.features))
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
