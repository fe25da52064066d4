"""The exposition is what Prometheus reads."""

from __future__ import annotations

from fathom.serve.messages import Experts
from fathom.serve.metrics import Histogram, Metric, Metrics


def test_counters_keep_labels_apart() -> None:
    metric = Metric("m", "counter", "help")
    assert list(metric.lines()) == ["m 0.0"]
    metric.add(1, route="/a", status="200")
    metric.add(2, status="200", route="/a")
    metric.add(1, route="/b", status="200")
    assert list(metric.lines()) == ['m{route="/a",status="200"} 3.0', 'm{route="/b",status="200"} 1.0']


def test_a_histogram_counts_upwards() -> None:
    histogram = Histogram("h", "help", (0.5, 1.0))
    for value in (0.5, 0.6, 7.0):
        histogram.observe(value)
    assert list(histogram.lines()) == [
        'h_bucket{le="0.5"} 1', 'h_bucket{le="1"} 2', 'h_bucket{le="+Inf"} 3', "h_sum 8.1", "h_count 3",
    ]  # fmt: skip


def test_every_series_is_named_once_and_explained() -> None:
    lines = Metrics().render().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) and all(name.startswith("fathom_") for name in names)
    assert [line.split()[2] for line in lines if line.startswith("# HELP")] == names


def test_experts_have_series_of_their_own_engine_only() -> None:
    metrics = Metrics()
    moved = Experts(1.5, (30, 10), 2, 1.25, None)
    metrics.show_experts({"both-0": moved, "both-1": Experts(1.1), "both-2": None})
    lines = [line for line in metrics.render().splitlines() if line.startswith("fathom_expert")]
    assert lines == [
        'fathom_expert_imbalance{replica="both-0"} 1.5', 'fathom_expert_imbalance{replica="both-1"} 1.1',
        'fathom_expert_rank_rows{rank="0",replica="both-0"} 30.0',
        'fathom_expert_rank_rows{rank="1",replica="both-0"} 10.0',
        'fathom_expert_moves_total{replica="both-0"} 2.0', 'fathom_expert_moves_total{replica="both-1"} 0.0',
        'fathom_expert_move_gain{kind="predicted",replica="both-0"} 1.25',
    ]  # fmt: skip
    metrics.show_experts({"both-1": Experts(1.2)})
    assert "both-0" not in metrics.render(), "a replica that is gone has no series"
