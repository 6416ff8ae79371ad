"""Alert rules over the exported metrics: declaration, evaluation, and the state of each alert.

An alert is about operation; an alarm (capture/alarms.py) is about unusual data of a batch.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from profilestream.base import settings as settings_module
from profilestream.base.observe import exported_metrics
from profilestream.base.observe.metrics_file import Labels, Samples
from profilestream.base.settings import Frozen

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME_SUFFIX = "_timestamp_seconds"
Severity = Literal["warning", "critical"]


def _check_duration(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,6}[smhd]", text):
        raise ValueError("not a duration such as 30s, 5m, 1h or 2d")
    return text


Duration = Annotated[str, AfterValidator(_check_duration)]


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * _UNITS[duration[-1]]


class AlertRule(Frozen):
    """A condition on the samples of a metric. Each sample that satisfies it is an alert of its own.

    Args:
        metric: name of an exported metric.
        labels: patterns of label values; `*` is any text. Labels that are not named may have any value.
        above, below: the value is higher or lower.
        older_than: for metrics of times: the time is longer ago.
        hold: `for` in the file: how long the condition must be true.
        message: for people; empty: the condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    metric: str
    labels: dict[str, str] = {}
    above: float | None = None
    below: float | None = None
    older_than: Duration | None = None
    hold: Duration = Field(default="0s", alias="for")
    severity: Severity = "warning"
    message: str = ""

    @model_validator(mode="after")
    def _check(self) -> "AlertRule":
        metric = exported_metrics.ALL.get(self.metric)
        if metric is None:
            raise ValueError(f"{self.metric} is not an exported metric (docs/running.md#metrics)")
        if unknown := sorted(self.labels.keys() - set(metric.labels)):
            raise ValueError(f"{self.metric} has no label {unknown}; its labels are {list(metric.labels)}")
        if sum(one is not None for one in (self.above, self.below, self.older_than)) != 1:
            raise ValueError("a rule has one of above, below and older_than")
        if self.older_than is not None and not self.metric.endswith(_TIME_SUFFIX):
            raise ValueError(f"older_than needs a metric of a time (*{_TIME_SUFFIX})")
        return self

    @property
    def condition(self) -> str:
        """The condition as text, such as `above 600`."""
        if self.older_than is not None:
            return f"older than {self.older_than}"
        return f"below {self.below:g}" if self.above is None else f"above {self.above:g}"

    def is_true(self, value: float, now: float) -> bool:
        """Whether a sample satisfies the condition at a time (seconds since 1970)."""
        if self.older_than is not None:
            return now - value > _seconds(self.older_than)
        if self.above is not None:
            return value > self.above
        assert self.below is not None
        return value < self.below


class Delivery(Frozen):
    """How changes of alerts are sent; nothing is sent by default.

    Args:
        command: program and arguments; it gets the alert as JSON on standard input.
        webhook: URL that gets the same by POST.
        timeout_seconds: of one command or request.
    """

    command: tuple[str, ...] = ()
    webhook: str = ""
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="after")
    def _check_url(self) -> "Delivery":
        if self.webhook and urlsplit(self.webhook).scheme not in ("http", "https"):
            raise ValueError(f"the webhook {self.webhook!r} is no http or https URL")
        return self


class AlertRules(Frozen):
    """The file of `observe.alerts`: rules by name."""

    rules: dict[str, AlertRule] = {}
    delivery: Delivery = Delivery()


@dataclass(frozen=True)
class Alert:
    """A sample that satisfies a rule.

    Args:
        since: when the condition became true, in seconds since 1970.
        state: `pending` until the condition has been true for the time of the rule.
    """

    alert: str
    severity: Severity
    state: Literal["pending", "active", "resolved"]
    metric: str
    labels: dict[str, str]
    value: float | None
    condition: str
    since: float
    message: str

    @property
    def key(self) -> str:
        """Identifies the alert: the rule and the labels."""
        return f"{self.alert}{sorted(self.labels.items())}"


def load(path: str) -> AlertRules:
    """The rules of a file; none for an empty path.

    Raises:
        BadSettings: the file or a rule is invalid.
    """
    return settings_module.validated(AlertRules, settings_module.read_toml(path), path) if path else AlertRules()


def evaluate(rules: AlertRules, samples: Samples, stored: Mapping[str, Alert], now: float) -> list[Alert]:
    """The alerts at a time: pending and active ones, and those of `stored` that are resolved now.

    Args:
        stored: pending and active alerts of the last evaluation, by key.
    """
    alerts = []
    for name, rule in rules.rules.items():
        for values, value in _selected(rule, samples):
            if rule.is_true(value, now):
                labels = dict(zip(exported_metrics.ALL[rule.metric].labels, values, strict=True))
                place = "".join(f" {text}" for text in values if text)
                what = rule.message or f"{rule.metric} is {rule.condition}"
                message = f"{name}:{place}: {what} (value {value:g})"
                alert = Alert(name, rule.severity, "pending", rule.metric, labels, value, rule.condition, now, message)
                since = stored[alert.key].since if alert.key in stored else now
                is_active = now - since >= _seconds(rule.hold)
                alerts.append(replace(alert, since=since, state="active" if is_active else "pending"))
    still_true = {alert.key for alert in alerts}
    ended = [alert for key, alert in stored.items() if key not in still_true and alert.state == "active"]
    return [*alerts, *(replace(alert, state="resolved", value=None) for alert in ended)]


def _selected(rule: AlertRule, samples: Samples) -> Iterator[tuple[Labels, float]]:
    """Labels and values of the samples that the rule is about."""
    names = exported_metrics.ALL[rule.metric].labels
    patterns = [rule.labels.get(name, "*") for name in names]
    for (metric, values), value in samples.items():
        if metric == rule.metric and all(map(fnmatchcase, values, patterns)):
            yield values, value


def changes(alerts: list[Alert], stored: Mapping[str, Alert]) -> list[Alert]:
    """The alerts whose change is to be sent: active ones that were not active, and resolved ones."""

    def was_active(alert: Alert) -> bool:
        return alert.key in stored and stored[alert.key].state == "active"

    return [one for one in alerts if one.state == "resolved" or (one.state == "active" and not was_active(one))]
