"""A proposed mapping: one SQL expression for each canonical column, with its confidence and the evidence for it."""

from dataclasses import dataclass, replace

from profilestream.capture.detection import column_roles, nested_records
from profilestream.capture.detection.column_roles import Roles
from profilestream.capture.detection.event_time_lines import event_time, timezone_line
from profilestream.capture.detection.event_type_lines import event_type_line
from profilestream.capture.detection.log_sample import SOURCE_FILE_DATE, LogSample, SampleColumn, quote
from profilestream.capture.detection.mapping_lines import (
    Line,
    ToSql,
    id_sql,
    line,
    number_line,
    plain_sql,
    text_sql,
    user_sql,
)

_SQL: dict[str, ToSql] = {
    **dict.fromkeys(("item_id", "session_id", "order_id"), id_sql),
    **dict.fromkeys(("category", "brand", "channel", "device", "region"), text_sql),
    **dict.fromkeys(("text", "query"), plain_sql),
}


@dataclass(frozen=True)
class Proposal:
    """A proposed mapping.

    Args:
        general, input, columns: lines by key, in the order of the file.
        sample: the sample that it was detected from.
    """

    general: dict[str, Line]
    input: dict[str, Line]
    columns: dict[str, Line]
    sample: LogSample

    @property
    def used(self) -> list[SampleColumn]:
        """Columns that an expression reads, in the order of the log."""
        used = [column for line in self.columns.values() for column in line.columns]
        return [column for column in self.sample.columns if column in used]

    @property
    def unused(self) -> list[str]:
        """Names of the columns that no expression reads."""
        used = {column.sql for column in self.used}
        return [c.name or c.sql for c in self.sample.columns if c.sql not in used and c.path != (SOURCE_FILE_DATE,)]

    def unsure(self) -> dict[str, Line]:
        """Lines that a person should check, by key."""
        lines = {**self.general, **{f"input.{k}": v for k, v in self.input.items()},
                 **{f"columns.{k}": v for k, v in self.columns.items()}}  # fmt: skip
        return {key: line for key, line in lines.items() if line.confidence == "unsure"}


def propose(sample: LogSample, roles: Roles, name: str, *, timezone: str = "", event_type: str = "") -> Proposal:
    """The mapping that the best candidates give; there must be one for the event time.

    Args:
        name: namespace of the ids.
        timezone: of wall-clock times; empty: UTC, marked as unsure unless the log states the zone.
        event_type: type of all events, for a log without types; empty: it is chosen by the other columns.
    """
    sample, roles = _with_names(sample, roles)
    element = str(sample.input.get("explode_as", ""))
    if element and roles.get("value") and roles["value"][0].column.path[0] != element:
        roles = {**roles, "value": []}  # the total of an order, which is not the value of one of its items
    roles = {target: candidates for target, candidates in roles.items() if candidates}
    type_line, unknown_types, signed = event_type_line(sample, roles, constant=event_type)
    others = [roles[target][0].column for target in ("event_type", "user_id", "item_id") if target in roles]
    time = event_time(sample, roles["event_time"], others)
    columns = {"event_id": line("event_id", roles["event_id"], id_sql)} if "event_id" in roles else {}
    columns |= {"event_type": type_line, "event_time": time.time, **_user(roles)}
    columns |= {target: line(target, roles[target], sql, element) for target, sql in _SQL.items() if target in roles}
    for target in column_roles.NUMBERS:
        if target in roles:
            columns[target] = number_line(target, roles[target], element, is_signed=target in signed)
    columns |= _currency(roles)
    general = {"timezone": timezone_line(time.is_instant, timezone)}
    if time.time_format is not None:
        general["time_format"] = time.time_format
    if unknown_types:
        evidence = "values of the log that are not built-in types, and are stored unchanged"
        general["event_types"] = Line(unknown_types, "unsure", evidence)
    general |= {"user_namespace": Line(name), "item_namespace": Line(name)}
    return Proposal(general, _input(sample, columns), columns, sample)


def _user(roles: Roles) -> dict[str, Line]:
    if "user_id" in roles:
        return {"user_id": line("user_id", roles["user_id"], user_sql)}
    if "session_id" not in roles:
        return {}
    session = roles["session_id"][0].column
    evidence = "the log has no user, so a session is used as a user"
    return {"user_id": Line(f"concat('session-', {id_sql(session)})", "likely", evidence, (session,))}


def _with_names(sample: LogSample, roles: Roles) -> tuple[LogSample, Roles]:
    """CSV columns of a file without a header get the names of their roles."""
    if sample.input.get("format") != "csv" or sample.input.get("header", True):
        return sample, roles
    by_sql = {candidates[0].column.sql: target for target, candidates in roles.items() if candidates}
    renamed = {}
    for column in sample.columns:
        name = by_sql.get(column.sql, column.sql)
        renamed[column.sql] = replace(column, path=(name,), sql=quote(name), uses=((name,),))
    raw_types = {by_sql.get(name, name): t for name, t in sample.raw_types.items()}
    new_roles = {
        target: [replace(c, column=renamed[c.column.sql]) for c in candidates] for target, candidates in roles.items()
    }
    return replace(sample, columns=[renamed[c.sql] for c in sample.columns], raw_types=raw_types), new_roles


def _currency(roles: Roles) -> dict[str, Line]:
    if "currency" in roles:
        return {"currency": line("currency", roles["currency"], text_sql)}
    numbers = [roles[target][0].number for target in column_roles.NUMBERS if target in roles]
    signs = {number.currency for number in numbers if number and number.currency}
    if len(signs) == 1:
        return {"currency": Line(f"'{signs.pop()}'", "likely", "the sign in the prices")}
    return {}


def _input(sample: LogSample, columns: dict[str, Line]) -> dict[str, Line]:
    lines = {}
    for key, value in {"format": sample.input["format"], "glob": sample.group.glob, **sample.input}.items():
        if value != "":
            lines[key] = Line(value, "unsure" if any(u.startswith(f"input.{key}") for u in sample.unsure) else "sure",
                              sample.evidence.get(key, ""))  # fmt: skip
    lines["columns"] = Line(_declared(sample, columns))
    return lines


def _declared(sample: LogSample, columns: dict[str, Line]) -> str:
    """The list of raw columns: all of a CSV file without a header, otherwise those that expressions read."""
    uses = {use for line in columns.values() for column in line.columns for use in column.uses}
    if sample.input["format"] == "csv" and not sample.input.get("header", True):
        partitions = [use[0] for use in sorted(uses) if use[0] not in sample.raw_types]
        return ", ".join(f"{quote(name)} string" for name in [*sample.raw_types, *partitions])
    if sample.explode_path:
        uses.add((*sample.explode_path, "[]"))
    names = dict.fromkeys(column.uses[0][0] for column in sample.columns if column.uses)
    if sample.explode_path:
        names.setdefault(sample.explode_path[0])
    used = [name for name in names if any(use[0] == name for use in uses)]
    types = {
        name: sample.raw_types.get(name) or nested_records.declared_type({use[1:] for use in uses if use[0] == name})
        for name in used
    }
    return ", ".join(f"{quote(name)} {data_type}" for name, data_type in types.items())
