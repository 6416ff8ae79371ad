"""Values in one reporting currency, by a side table of rates; a rate is valid from its date to the next one.

Without rates, the values of different currencies cannot be added up. Then each batch is compared with the main currency
of its source, and rows in another one are counted under the warning `currency_mixed`.
"""

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base.errors import BadSettings
from profilestream.base.settings import ReportingCurrency
from profilestream.capture import side_tables
from profilestream.capture.execute_mapping import NOTES, STORED_VALUE, note_where
from profilestream.capture.mapping import Lookup, Mapping
from profilestream.capture.text_parsers import parse_number, trim_blanks

RATES = "capture.currency"
MISSING_RATE, MIXED = "currency_rate_missing", "currency_mixed"
_COLUMNS = ("currency", "valid_from", "rate")


def warnings_of(mapping: Mapping) -> list[str]:
    """Names of the warnings that a row or batch of the source can have."""
    return [MISSING_RATE, MIXED] if has_currencies(mapping) else []


def has_currencies(mapping: Mapping) -> bool:
    """Whether events of the source can have different currencies: the mapping's expression is not a constant text."""
    sql = mapping.columns.get("currency", "''").strip()
    return not (sql.startswith("'") and sql.endswith("'") and sql.count("'") == 2)


def lookup(config: ReportingCurrency) -> Lookup:
    """The table of rates as a side table, so that a batch plan records its version."""
    return Lookup(path=config.rates, format=config.format, key="currency", on="currency")


def check_rates(spark: SparkSession, config: ReportingCurrency) -> None:
    """Check the table of rates.

    Raises:
        BadSettings: it lacks a column, contains a text that is no date, or a rate that is no number from 1e-15 to 1e15,
            or two rates of a currency are valid from the same date.
        SourceMissing, SourceUnreadable: as `side_tables.read_checked`.
    """
    table = side_tables.read_checked(spark, lookup(config), RATES)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise BadSettings(
            f"the table of rates has no columns {missing}; it has {table.columns}",
            where=f"{RATES}.rates", do="write a table with the columns currency, valid_from and rate",
        )  # fmt: skip
    rates = _typed(table)
    wrong = rates.where(
        "currency IS NULL OR valid_from IS NULL OR rate IS NULL OR NOT rate BETWEEN 1e-15 AND 1e15"
    ).first()
    repeated = rates.groupBy("currency", "valid_from").count().where("count > 1").first()
    if wrong is not None or repeated is not None:
        raise BadSettings(
            f"a rate is not valid: {wrong.asDict()}" if wrong is not None else f"a rate is repeated: {repeated}",
            where=f"{RATES}.rates", do="write a code, a date and a number above 0, one row per currency and date",
        )  # fmt: skip


def with_reporting_value(events: DataFrame, config: ReportingCurrency, versions: dict[str, int]) -> DataFrame:
    """Events whose `_stored_value` is in the reporting currency; null, with a note, where there is no rate.

    An event without a currency is in the reporting currency.
    """
    rates = _typed(side_tables.read(events.sparkSession, lookup(config), versions.get(RATES)))
    by_date = Window.partitionBy("_currency").orderBy("_first")
    ranges = rates.select(F.col("currency").alias("_currency"), F.col("valid_from").alias("_first"), "rate").withColumn(
        "_next", F.lead("_first").over(by_date)
    )
    date, code, value = F.to_date("event_time"), F.col("currency"), F.col(STORED_VALUE)
    is_valid = (
        (code == F.col("_currency")) & (date >= F.col("_first")) & (F.col("_next").isNull() | (date < F.col("_next")))
    )
    joined = events.join(F.broadcast(ranges), is_valid, "left")
    is_reporting = F.coalesce(code, F.lit(config.reporting)) == config.reporting
    is_missing = ~is_reporting & value.isNotNull() & F.col("rate").isNull()
    return joined.withColumns(
        {
            STORED_VALUE: F.when(is_reporting, value).otherwise(value * F.col("rate")),
            NOTES: F.concat(NOTES, note_where(is_missing, MISSING_RATE)),
        }
    ).drop("_currency", "_first", "_next", "rate")


def _typed(table: DataFrame) -> DataFrame:
    is_text = isinstance(table.schema["rate"].dataType, T.StringType)
    rate = parse_number(trim_blanks(F.col("rate"))) if is_text else F.col("rate").try_cast("double")
    return table.select(F.col("currency").cast("string"), F.col("valid_from").try_cast("date"), rate.alias("rate"))
