"""The report names what was asked, what was chosen and why; JSON has the same, and charts draw it."""

import json
from dataclasses import replace

from fathom.plan.pools import Workload
from fathom.plan.report import marks
from fathom.plan.search import Pareto
from fathom.plan.serving import quantities
from fathom.plan.serving_text import charts, extras, facts, lines, parts, plan_name, some
from fathom.plan.trial import trial
from tests.plan.served import SMALL, found

ASK = Workload(input=2000, output=500, rps=30.0, hit=0.25, peak=1.2)
WORDS = (
    "2,000 tokens in (25% of them found), 500 out", "30 requests/s", "Arithmetic", "low 80 %", "USD/M tokens",
    "Why not the next", "tok/s/user", "prices:", "over the day",
)  # fmt: skip
SPLIT = replace(SMALL, gpus=8, split=(True,))


def report(choices=SPLIT):
    plan = found(ASK, choices, curve=True)
    tried = trial(plan.chosen, ASK, rows=3000)
    return plan, quantities(plan, tried, tried, tried), tried


def test_the_report_is_short_calm_and_says_all() -> None:
    for choices in (SPLIT, replace(SPLIT, split=(False,))):
        plan, numbers, tried = report(choices)
        said = list(lines(plan, numbers, tried))
        assert len(said) < 75 and max(map(len, said)) <= 120
        text = "\n".join(said)
        for word in WORDS:
            assert word in text
        assert plan_name(plan.chosen) in text
        assert not {"nan", "inf"} & set(text.replace(",", " ").split())
        arithmetic = said[said.index("Arithmetic") : next(i for i, line in enumerate(said) if line.startswith("Why"))]
        assert len(arithmetic) <= 25


def test_json_has_every_number_with_its_unit() -> None:
    plan, numbers, tried = report()
    found_again = json.loads(json.dumps(facts(plan, numbers, tried)))
    assert found_again["plan"]["gpus"] == plan.chosen.gpus
    assert all("unit" in each and "value" in each for each in found_again["numbers"].values() if each)
    assert len(found_again["pareto"]) == len(plan.pareto)
    roles = [pool["role"] for pool in found_again["plan"]["pools"]]
    assert roles == ["prefill", "decode"] and found_again["plan"]["pools"][1]["step"]


def test_parts_of_a_step_add_up_to_it() -> None:
    point = report()[0].chosen.decode
    said = parts(point, point.step_s)
    numbers = [float(each.rsplit(" ", 1)[1]) for each in said.removeprefix("= ").removesuffix(" ms").split(" + ")]
    assert abs(sum(numbers) - point.step_s * 1e3) < 0.06 * len(numbers)


def test_charts_show_the_plan_on_the_curve() -> None:
    plan, _, _ = report()
    first, second = charts(plan)
    assert first.series[-1].name == "the plan" and len(marks(first)) > 20 and len(marks(second)) > 10
    assert "tok/s" in first.x_label + first.y_label and second.categories


def test_a_long_curve_is_thinned_with_its_ends_and_the_target() -> None:
    service = report()[0].chosen
    curve = [Pareto(200.0 / n, float(n), service) for n in range(1, 101)]
    picked = some(curve, ASK)
    assert len(picked) <= 12 and picked[0] is curve[0] and picked[-1] is curve[-1] and curve[9] in picked


def test_extras_say_what_is_not_usual() -> None:
    point = report()[0].chosen.decode
    setup = replace(point.replica.setup, mtp=1, overlap=True, cache="fp8")
    assert extras(replace(point, replica=replace(point.replica, setup=setup))) == " (MTP 1, overlap, fp8 cache)"
    assert extras(point) == ""
