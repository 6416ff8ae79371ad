"""Column: name, type, unit, meaning, and whether its values identify a person."""

from dataclasses import dataclass
from typing import Literal

Person = Literal["user", "other_user", "free_text", "raw_payload"]
Place = Literal["value", "map key", "array element", "sketch"]


@dataclass(frozen=True)
class Subject:
    """How a column identifies a person.

    Args:
        person: `user`: the user of the row or event. `other_user`: another user, such as the receiver of a gift.
            `free_text`: text typed by a person. `raw_payload`: the unparsed record.
        place: where the identifying value is: the column's value, the keys of a map, the elements of an array, or the
            hashes in a sketch.
        where: SQL condition on the row when only some rows identify a person, such as `side = 'user'`; empty: all rows.
    """

    person: Person
    place: Place = "value"
    where: str = ""

    def __str__(self) -> str:
        place = "" if self.place == "value" else f", as {self.place}"
        return f"{self.person}{place}{f', where {self.where}' if self.where else ''}"


@dataclass(frozen=True)
class Column:
    """A column of a Delta table.

    Args:
        type: as in CREATE TABLE, such as `DOUBLE` or `STRING NOT NULL`.
        meaning: one sentence.
        unit: unit of its numbers; empty when there is none.
        subject: how the column identifies a person; null when it does not.
        fields: columns of a struct, in order.
    """

    name: str
    type: str
    meaning: str
    unit: str = ""
    subject: Subject | None = None
    fields: tuple["Column", ...] = ()

    @property
    def is_nullable(self) -> bool:
        """False for a NOT NULL column."""
        return not self.type.upper().endswith(" NOT NULL")

    @property
    def sql_type(self) -> str:
        """The type without NOT NULL."""
        return self.type if self.is_nullable else self.type[: -len(" NOT NULL")]

    @property
    def ddl(self) -> str:
        """Name and type, as in CREATE TABLE."""
        return f"{self.name} {self.type}"

    @property
    def comment(self) -> str:
        """The comment that the Delta table stores with the column."""
        return f"{self.meaning} Unit: {self.unit}." if self.unit else self.meaning


USER, OTHER_USER = Subject("user"), Subject("other_user")
FREE_TEXT, RAW_PAYLOAD = Subject("free_text"), Subject("raw_payload")

EPOCH = Column("epoch", "STRING NOT NULL", "UUID of the checkpoint that wrote the row.")
BATCH_ID = Column("batch_id", "BIGINT NOT NULL", "Micro-batch that wrote the row, within the epoch.")


def as_of(meaning: str = "Newest event time merged into the row; decayed values are valid at this time.") -> Column:
    """The column `as_of`."""
    return Column("as_of", "TIMESTAMP NOT NULL", meaning)


def quoted(name: str) -> str:
    """The name of a column for SQL, whatever characters it has."""
    return "`" + name.replace("`", "``") + "`"
