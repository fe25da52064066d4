"""An answer as the page shows it: a sentence, numbers, plots and tables, each with its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fathom.plan.quantity import Quantity
from fathom.plan.report import Chart, as_json


@dataclass(frozen=True)
class Plot:
    """A chart with a name for files. notes: by series, words for each of its points, shown with the point."""

    name: str
    chart: Chart
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, **as_json(self.chart), "notes": as_json(self.notes)}


@dataclass(frozen=True)
class Table:
    """Rows of texts or numbers; the head says the units."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        rows = [[each.value if isinstance(each, Quantity) else each for each in row] for row in self.rows]
        return {"title": self.title, "head": list(self.head), "rows": rows}


@dataclass(frozen=True)
class Answer:
    """One section of the page. says: its sentence. state: whether that is good news. lines: what it rests on."""

    says: str
    state: Literal["", "yes", "no"] = ""
    numbers: Sequence[tuple[str, Quantity]] = ()
    lines: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "says": self.says, "state": self.state, "lines": list(self.lines),
            "numbers": [{"title": title, **quantity.to_dict()} for title, quantity in self.numbers],
            "plots": [plot.to_dict() for plot in self.plots], "tables": [table.to_dict() for table in self.tables],
        }  # fmt: skip
