"""The base of all models of settings and declarations."""

from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict


def _check_zone(zone: str) -> str:
    if zone not in available_timezones():
        raise ValueError("not a time zone such as Europe/London")
    return zone


TimeZone = Annotated[str, AfterValidator(_check_zone)]


class Frozen(BaseModel):
    """Base of all settings: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")
