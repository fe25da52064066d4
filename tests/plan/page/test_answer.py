"""An answer is plain data: every number keeps its unit, a chart its axes."""

from __future__ import annotations

import json

from fathom.plan.page.answer import Answer, Plot, Table
from fathom.plan.quantity import Quantity
from fathom.plan.report import Chart, Series


def test_an_answer_is_json_with_units() -> None:
    chart = Chart("speed", "users", "speed [tok/s]", (Series("a", ((1.0, 2.0), (2.0, 4.0)), "dots"),))
    plot = Plot("speed", chart, {"a": ("first", "second")})
    table = Table("rows", ("what", "GB"), (("weights", 3.5), ("all", Quantity(4.0, "GB"))))
    number = ("Cost", Quantity(3.0, "USD", "of it", 2.0, 4.0, "compute", note="here"))
    made = json.loads(json.dumps(Answer("Yes.", "yes", [number], ["a line"], [plot], [table]).to_dict()))
    assert made["numbers"] == [
        {"title": "Cost", "value": 3.0, "unit": "USD", "meaning": "of it", "low": 2.0, "high": 4.0, "bound": "compute",
         "source": "computed", "note": "here"}
    ]  # fmt: skip
    assert made["tables"][0]["rows"] == [["weights", 3.5], ["all", 4.0]]
    drawn = made["plots"][0]
    assert drawn["notes"] == {"a": ["first", "second"]} and drawn["y_label"] == "speed [tok/s]"
    assert drawn["series"][0]["points"] == [[1.0, 2.0], [2.0, 4.0]]
