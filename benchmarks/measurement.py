"""What a measurement returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A figure, what it is compared with, and everything that is needed to judge it."""

    value: float
    unit: str
    of: str
    baseline: float | None
    details: dict[str, Any]

    def as_json(self, *, seconds: float) -> dict[str, Any]:
        """As it stands in results.json (DESIGN.md 13)."""
        details = {"of": self.of, **self.details, "seconds": round(seconds, 1)}
        return {"value": self.value, "unit": self.unit, "baseline": self.baseline, "details": details}
