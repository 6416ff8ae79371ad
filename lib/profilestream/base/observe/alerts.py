"""Evaluates the alert rules over the metrics of a warehouse, and sends each change once, by a command or a webhook."""

import json
import logging
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from profilestream.base.errors import BadSettings
from profilestream.base.observe import alert_rules, metrics_file
from profilestream.base.observe.alert_rules import Alert, Delivery
from profilestream.base.observe.exported_metrics import ALERT_ACTIVE
from profilestream.base.observe.metrics_file import MetricsFile
from profilestream.base.settings import Settings

log = logging.getLogger(__name__)


class Alerts:
    """The alerts of a warehouse. Their state is a file, so that each change is sent once by all processes together.

    Raises:
        BadSettings: a rule is invalid.
    """

    def __init__(self, settings: Settings) -> None:
        self._rules = alert_rules.load(settings.observe.alerts)
        self._warehouse = settings.paths.warehouse
        self._metrics = MetricsFile(metrics_file.metrics_path(settings))
        self._state = metrics_file.state_folder(settings) / "alerts.json"
        self._thread: threading.Thread | None = None

    def evaluate(self) -> list[Alert]:
        """Evaluate the rules now, and send the changes; returns the pending and active alerts.

        A change that cannot be sent is sent by the next evaluation.

        Raises:
            BadSettings: this user may not write the state.
        """
        if not self._rules.rules:
            return []
        try:
            return self._evaluate()
        except PermissionError as error:
            raise BadSettings(
                f"the state of the alerts cannot be written: {error}",
                where=str(self._state.parent),
                do="run it as the user of the jobs, or without alerts: --set observe.alerts=",
            ) from None

    def _evaluate(self) -> list[Alert]:
        self._state.parent.mkdir(parents=True, exist_ok=True)
        with metrics_file.file_lock(self._state):
            stored = _read_state(self._state)
            alerts = alert_rules.evaluate(self._rules, metrics_file.read(self._metrics.path), stored, time.time())
            unsent = {one.key for one in alert_rules.changes(alerts, stored) if not self._send(one)}
            state = [_unsent(one) if one.key in unsent else one for one in alerts]
            _write_state(self._state, [one for one in state if one.state != "resolved"])
        present = [one for one in alerts if one.state != "resolved"]
        for name, rule in self._rules.rules.items():
            is_active = any(one.alert == name and one.state == "active" for one in present)
            self._metrics.set(ALERT_ACTIVE, float(is_active), name, rule.severity)
        self._metrics.write()
        return present

    def evaluate_in_background(self) -> None:
        """Start an evaluation in a thread unless one is in progress; an error is logged."""
        if self._rules.rules and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._try_to_evaluate, daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Evaluate once more, and wait for it, at most twice the timeout of a delivery."""
        seconds = 2 * self._rules.delivery.timeout_seconds
        if self._thread is not None:
            self._thread.join(seconds)
        self.evaluate_in_background()
        if self._thread is not None:
            self._thread.join(seconds)

    def _try_to_evaluate(self) -> None:
        try:
            self.evaluate()
        except Exception as error:
            log.warning("the alerts could not be evaluated: %s: %s", type(error).__name__, error)

    def _send(self, alert: Alert) -> bool:
        is_sent = send(alert, self._rules.delivery, self._warehouse)
        if is_sent:
            log.warning("alert %s: %s", alert.state, alert.message)
        return is_sent


def send(alert: Alert, delivery: Delivery, warehouse: str) -> bool:
    """Send a change by the command and by the webhook; false, with a log line, if one of them fails."""
    since = datetime.fromtimestamp(alert.since, UTC).isoformat(timespec="seconds")
    text = f"[{alert.severity}, {alert.state}] {alert.message}"
    content = json.dumps({**asdict(alert), "since": since, "warehouse": warehouse, "text": text}).encode()
    try:
        if delivery.command:
            subprocess.run(
                delivery.command, input=content, capture_output=True, check=True, timeout=delivery.timeout_seconds
            )
        if delivery.webhook:
            request = urllib.request.Request(delivery.webhook, content, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=delivery.timeout_seconds):
                pass
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("this alert could not be sent, and is sent again later (%s): %s", error, alert.message)
        return False
    return True


def _unsent(alert: Alert) -> Alert:
    """What is stored of an alert whose change is not sent yet, so that the next evaluation changes it again."""
    return replace(alert, state="active" if alert.state == "resolved" else "pending")


def _read_state(path: Path) -> Mapping[str, Alert]:
    """The stored alerts by key; none without a readable file."""
    try:
        alerts = [Alert(**fields) for fields in json.loads(path.read_text())]
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    return {alert.key: alert for alert in alerts}


def _write_state(path: Path, alerts: list[Alert]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps([asdict(alert) for alert in alerts], indent=1))
    temporary.replace(path)
