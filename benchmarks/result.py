"""The result of a benchmark, as one JSON line."""

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Result:
    """A measured value and its bound.

    Args:
        bench: name of the benchmark, a key of the README's table.
        value: ratio to the baseline, or an absolute quality metric.
        bound: the value must be at least (`better` is "higher") or at most ("lower") this number.
        against: the baseline.
        detail: sizes, absolute numbers and seed.
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
        """Whether the value is within its bound."""
        return self.value >= self.bound if self.better == "higher" else self.value <= self.bound

    def json_line(self) -> str:
        """One line of results/latest.jsonl: all fields and `holds`; the value has four decimals."""
        return json.dumps({**asdict(self), "value": round(self.value, 4), "holds": self.holds})
