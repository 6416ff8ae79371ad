"""Names of items in lists: those of the table `items`, or the ids of items without a name."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def with_names(entries: DataFrame, items: DataFrame | None) -> DataFrame:
    """Rows with `item_id` and the column `name`: that of `items`, or the id of an item without one."""
    if items is None:
        return entries.withColumn("name", F.col("item_id"))
    names = items.where("name IS NOT NULL").select("item_id", "name")
    return entries.join(names, "item_id", "left").withColumn("name", F.coalesce("name", "item_id"))


def in_order(name: str) -> Column:
    """An aggregate: the names of the rows of one `list`, in the order of `position`."""
    entries = F.collect_list(F.when(F.col("list") == name, F.struct("position", "name")))
    return F.transform(F.array_sort(entries), lambda entry: entry["name"])
