"""What a benchmark says: one JSON line."""

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Result:
    """A value against its bound.

    Args:
        value: a ratio against the baseline named in `against`, or a quality number.
        better: which side of the bound is good.
    """

    bench: str
    value: float
    unit: str
    bound: float
    better: Literal["higher", "lower"]
    against: str
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the value is on the good side of its bound."""
        return self.value >= self.bound if self.better == "higher" else self.value <= self.bound

    def line(self) -> str:
        """The JSON line that scripts read."""
        return json.dumps({**asdict(self), "value": round(self.value, 4), "holds": self.holds})
