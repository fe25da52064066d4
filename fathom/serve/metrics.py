"""Counters, gauges and histograms in Prometheus' text format: what the front knows, in one small registry.

Hand-written because it is forty lines, needs no dependency, and keeps labels to values fixed in this code: nothing a
client sends ever becomes a label, so the number of series is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fathom.serve.messages import Experts

LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Metric:
    """A number per set of labels: a counter if it only grows, else a gauge."""

    def __init__(self, name: str, kind: str, help_text: str) -> None:
        self.name, self.kind, self.help_text = name, kind, help_text
        self.values: dict[Labels, float] = {}

    def add(self, amount: float = 1.0, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        self.values[key] = self.values.get(key, 0.0) + amount

    def set(self, value: float, **labels: str) -> None:
        self.values[tuple(sorted(labels.items()))] = value

    def lines(self) -> Iterator[str]:
        for labels, value in sorted(self.values.items() or [((), 0.0)]):
            yield f"{self.name}{_braced(labels)} {value!r}"


class Histogram:
    """How often a measurement fell below each bound."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...]) -> None:
        self.name, self.help_text, self.bounds = name, help_text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> Iterator[str]:
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'{self.name}_bucket{{le="{edge}"}} {seen}'
        yield f"{self.name}_sum {self.total!r}"
        yield f"{self.name}_count {seen}"


class Metrics:
    """Every series of the front, under one name each."""

    def __init__(self) -> None:
        self._all: list[Metric | Histogram] = []
        self.requests = self._counter("requests_total", "HTTP requests by route and status.")
        self.finished = self._counter("choices_finished_total", "Generated choices by finish reason.")
        self.aborted = self._counter("requests_aborted_total", "Generations given up, by reason.")
        self.prompt_tokens = self._counter("prompt_tokens_total", "Prompt tokens read.")
        self.cached_tokens = self._counter("prompt_tokens_cached_total", "Prompt tokens found, by where: memory, disk.")
        self.output_tokens = self._counter("generation_tokens_total", "Tokens generated.")
        self.reasoning_tokens = self._counter("reasoning_tokens_total", "Tokens generated inside thinking.")
        self.budgets_hit = self._counter("thinking_budgets_hit_total", "Thoughts closed because they met their budget.")
        self.samples_aborted = self._counter(
            "samples_aborted_total", "Samples given up because they could not change the result, by strategy."
        )
        self.drafted = self._counter("spec_decode_num_draft_tokens_total", "Tokens guessed ahead and verified.")
        self.accepted = self._counter("spec_decode_num_accepted_tokens_total", "Tokens guessed right.")
        self.accepted_at = self._counter(
            "spec_decode_num_accepted_tokens_per_pos_total", "Tokens guessed right, by how far ahead (0: the next one)."
        )
        self.restarts = self._counter("engine_restarts_total", "Times the engine worker was started again.")
        self.resumed = self._counter("requests_resumed_total", "Times a request went on after its engine had died.")
        self.poisoned = self._counter("requests_poisoned_total", "Requests found to kill the engine, and ended.")
        self.moved = self._counter("requests_moved_total", "Times a request went on at another replica.")
        self.prefilled = self._counter("requests_prefilled_total", "Requests decoded by another than read them.")
        self.alone = self._counter("requests_read_by_decoders_total", "Requests that found no prefill replica ready.")
        self.replica_ready = self._gauge("replica_ready", "1 while this replica takes requests.")
        self.replica_requests = self._gauge("replica_requests", "Sequences handed to this replica and not finished.")
        self.replica_due_tokens = self._gauge("replica_due_tokens", "Tokens due on this replica, by the router.")
        self.replica_restarts = self._gauge("replica_restarts", "Times this replica was started again.")
        self.preemptions = self._gauge("preemptions", "Preemptions since the engine started.")
        self.running = self._gauge("requests_running", "Sequences in the batch.")
        self.waiting = self._gauge("requests_waiting", "Sequences waiting for pages or for their turn.")
        self.in_flight = self._gauge("requests_in_flight", "Sequences handed to the engine and not finished.")
        self.pages_used = self._gauge("cache_pages_used", "Pages of latent cache held by running sequences.")
        self.pages_total = self._gauge("cache_pages", "Pages of latent cache.")
        self.copied_pages = self._gauge("cache_pages_copied", "Pages that siblings shared until one wrote into them.")
        self.spilled_pages = self._gauge("spill_pages_written", "Pages written to the spill file.")
        self.restored_pages = self._gauge("spill_pages_read", "Pages read back from the spill file.")
        self.lost_pages = self._gauge("spill_pages_lost", "Pages that the spill file did not give back as written.")
        self.slots_used = self._gauge("spill_pages", "Pages in the spill file.")
        self.leases = self._gauge("leases", "Leases of pages by state: how many came to be in it; live: now.")
        self.leased_pages = self._gauge("cache_pages_leased", "Pages held for other workers.")
        self.fetched_pages = self._gauge("pages_fetched", "Pages taken in from other workers.")
        self.fetched_bytes = self._gauge("fetched_bytes", "Bytes of pages taken in from other workers.")
        self.fetches = self._gauge("fetches", "Prompts whose pages all came from elsewhere.")
        self.failed_fetches = self._gauge("fetches_failed", "Prompts whose pages did not all come from elsewhere.")
        self.op_s = self._counter("engine_op_seconds_total", "Time of the engine's leading process by op.")
        self.imbalance = self._gauge("expert_imbalance", "Load of the busiest ranks over that of mean ranks, of late.")
        self.rank_rows = self._gauge("expert_rank_rows", "Rows that each rank's experts computed, of late.")
        self.expert_moves = self._counter("expert_moves_total", "Times that experts were placed anew.")
        self.expert_gain = self._gauge("expert_move_gain", "Throughput after over before the last move, by kind.")
        self.ready = self._gauge("ready", "1 while the engine can take requests.")
        self.first_token_s = self._histogram("time_to_first_token_seconds", "Arrival to first token.", LATENCY_S)
        self.queued_s = self._histogram("request_queue_seconds", "Arrival to first step.", LATENCY_S)
        self.request_s = self._histogram("request_seconds", "Arrival to last token.", LATENCY_S)
        self.per_token_s = self._histogram("time_per_output_token_seconds", "Mean gap between tokens.", PER_TOKEN_S)

    def render(self) -> str:
        """The exposition text."""
        lines: list[str] = []
        for metric in self._all:
            lines += [f"# HELP {metric.name} {metric.help_text}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"

    def show_replicas(self, replicas: Sequence[Mapping[str, Any]]) -> None:
        """One series each for the replicas that there are now; those that are gone vanish. Names are the operator's."""
        for metric, key in (
            (self.replica_requests, "requests"),
            (self.replica_due_tokens, "due_tokens"),
            (self.replica_restarts, "restarts"),
        ):
            metric.values = {}
            for replica in replicas:
                metric.set(float(replica[key]), replica=replica["name"])
        self.replica_ready.values = {}
        for replica in replicas:
            self.replica_ready.set(float(replica["state"] == "ready"), replica=replica["name"])

    def show_experts(self, engines: Mapping[str, Experts | None]) -> None:
        """How even the load of experts is, engine by engine; at most messages.Experts's ranks each."""
        series = (self.imbalance, self.rank_rows, self.expert_moves, self.expert_gain)
        for metric in series:
            metric.values = {}
        for name, experts in engines.items():
            if experts is None:
                continue
            self.imbalance.set(experts.imbalance, replica=name)
            self.expert_moves.set(float(experts.moves), replica=name)
            for rank, rows in enumerate(experts.rank_rows):
                self.rank_rows.set(float(rows), replica=name, rank=str(rank))
            for kind, gain in (("predicted", experts.predicted_gain), ("measured", experts.measured_gain)):
                if gain is not None:
                    self.expert_gain.set(gain, replica=name, kind=kind)

    def _counter(self, name: str, help_text: str) -> Metric:
        return self._add(Metric(f"fathom_{name}", "counter", help_text))

    def _gauge(self, name: str, help_text: str) -> Metric:
        return self._add(Metric(f"fathom_{name}", "gauge", help_text))

    def _add(self, metric: Metric) -> Metric:
        self._all.append(metric)
        return metric

    def _histogram(self, name: str, help_text: str, bounds: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"fathom_{name}", help_text, bounds)
        self._all.append(histogram)
        return histogram


def _braced(labels: Labels) -> str:
    pairs = ",".join(f'{key}="{value}"' for key, value in labels)
    return f"{{{pairs}}}" if pairs else ""
