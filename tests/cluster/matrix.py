"""Which features are tried together: every pair of them at least once, in as few runs as a simple rule finds.

A crew is started for each of CREWS. Each serves the mixed load (mix.py) at least once; further runs go where they cover
most pairs per process. docs/feature-matrix.md counts, for each pair, the runs that had both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

from fathom.config import ModelConfig, find_model
from fathom.errors import ConfigError
from fathom.layout import Layout

MODEL = "nano"
MOST_RANKS = 16
# pp, dp, tp, ep, bits, copies of experts: every pair of sizes that fits into 16 ranks, each size at each number of bits
CREWS = (
    (1, 1, 2, 2, 4, 0), (1, 2, 1, 2, 16, 4), (2, 1, 1, 1, 8, 0), (1, 2, 2, 4, 32, 8),  # quick enough to run always
    (1, 1, 2, 1, 16, 0), (1, 2, 1, 1, 32, 0), (1, 1, 4, 1, 4, 0), (2, 2, 1, 2, 32, 4), (2, 1, 2, 2, 8, 8),
    (1, 1, 4, 2, 8, 8), (1, 4, 1, 4, 4, 4), (1, 1, 4, 4, 16, 0), (2, 1, 4, 4, 32, 0), (1, 2, 4, 8, 8, 0),
    (1, 8, 1, 8, 32, 8), (1, 4, 2, 8, 4, 8), (1, 2, 2, 4, 8, 0), (2, 1, 2, 2, 16, 0), (2, 2, 1, 1, 4, 0),
    (2, 4, 2, 8, 16, 0),
)  # fmt: skip
QUICK = 4
SPEC = ("off", 1, 2, "auto")
TOKENS = {"ample": 6400, "few": 192}  # that the pages of a lane hold
PAGE_TOKENS = (16, 4)


@dataclass(frozen=True)
class Run:
    """One mixed load on a crew. spec, page_tokens: as in EngineConfig. pages: a key of TOKENS."""

    spec: str | int
    pages: str
    page_tokens: int

    @property
    def num_pages(self) -> int:
        return TOKENS[self.pages] // self.page_tokens


@dataclass(frozen=True)
class Case:
    """A crew and what it runs."""

    layout: Layout
    bits: int
    redundant: int
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        layout = self.layout
        return f"pp{layout.pp}-dp{layout.dp}-tp{layout.tp}-ep{layout.ep}-bits{self.bits}-copies{self.redundant}"

    @property
    def mtp(self) -> bool:
        """Whether any of its runs guesses ahead; if none does, the module is not even loaded."""
        return any(run.spec != "off" for run in self.runs)


@dataclass(frozen=True)
class Feature:
    """One value of one kind."""

    kind: str
    value: str


def features(layout: Layout, bits: int, redundant: int, run: Run) -> tuple[Feature, ...]:
    """What such a run has, one feature of each kind."""
    guesses = {"off": "no guesses", "auto": "guesses as they pay"}.get(str(run.spec), f"{run.spec} guessed")
    return (
        Feature("tp", f"TP {layout.tp}"),
        Feature("ep", f"EP {layout.ep}"),
        Feature("dp", "DP attention" if layout.dp > 1 else "one batch"),
        Feature("pp", f"PP {layout.pp}"),
        Feature("copies", "copied experts" if redundant else "experts once"),
        Feature("bits", f"{bits} bits"),
        Feature("spec", guesses),
        Feature("pages", f"{run.pages} pages"),
        Feature("page_tokens", f"pages of {run.page_tokens}"),
    )


Pair = frozenset[Feature]
RUNS = tuple(Run(*choice) for choice in product(SPEC, TOKENS, PAGE_TOKENS))


def pairs(layout: Layout, bits: int, redundant: int, run: Run) -> set[Pair]:
    return {frozenset(pair) for pair in combinations(features(layout, bits, redundant, run), 2)}


@cache
def possible() -> frozenset[Pair]:
    """Every pair that some layout of MOST_RANKS at most can have."""
    config, found = ModelConfig.read(find_model(MODEL)), set()
    for sizes in product((1, 2), (1, 2, 4, 8), (1, 2, 4), (1, 2, 4, 8)):
        try:
            layout = Layout(*sizes)
            layout.check(config)
        except ConfigError:
            continue
        if 1 < layout.world_size <= MOST_RANKS:
            for bits, redundant, run in product((32, 16, 8, 4), (0, 8) if layout.ep > 1 else (0,), RUNS):
                found |= pairs(layout, bits, redundant, run)
    return frozenset(found)


@cache
def cases() -> tuple[Case, ...]:
    """Every crew with its runs: the best one first, then more while pairs are missing, the most per process."""
    crews = [(Layout(*sizes), bits, redundant) for *sizes, bits, redundant in CREWS]
    chosen: list[list[Run]] = [[] for _ in crews]
    missing = set(possible())

    def gain(place: int, run: Run) -> int:
        return len(pairs(*crews[place], run) & missing)

    def take(place: int, run: Run) -> None:
        chosen[place].append(run)
        missing.difference_update(pairs(*crews[place], run))

    for place in range(len(crews)):
        take(place, max(RUNS, key=lambda run: gain(place, run)))
    while missing:
        place, run = max(product(range(len(crews)), RUNS), key=lambda one: gain(*one) / crews[one[0]][0].world_size)
        if not gain(place, run):
            break  # some pair is in no crew: test_matrix.py names it
        take(place, run)
    return tuple(Case(*crew, tuple(runs)) for crew, runs in zip(crews, chosen, strict=True))


def planned() -> set[tuple[Case, Run]]:
    return {(case, run) for case in cases() for run in case.runs}


HEAD = """# What was run together

Written by `pytest tests/cluster -m "slow or not slow" --write-matrix` after all runs passed; do not edit.

Each run serves one mixed load of {requests} requests on a model divided among processes, and every token and
log-probability is compared with those of one process, with `==`. The load has prompts of 1 to 80 tokens, shared
beginnings, several samples of one prompt, temperatures 0, 0.7 and 1.2, penalties, thinking budgets, log-probabilities
and aborts. Every run finds cached prefixes; those with few pages preempt.

{runs} runs on {crews} layouts. A cell says how many of them had both; – is what no layout of up to {most} ranks can
have.
"""


def page(ran: Iterable[tuple[Case, Run]], requests: int) -> str:
    """docs/feature-matrix.md, if exactly these ran."""
    done = list(ran)
    counts = Counter(pair for case, run in done for pair in pairs(case.layout, case.bits, case.redundant, run))
    names = ordered()
    rows = [name for name in names if name.kind != names[0].kind]
    columns = [name for name in names if name.kind != names[-1].kind]
    lines = [HEAD.format(requests=requests, runs=len(done), crews=len({case for case, _ in done}), most=MOST_RANKS)]
    lines.append("| | " + " | ".join(name.value for name in columns) + " |")
    lines.append("| --- |" + " ---: |" * len(columns))
    for row in rows:
        cells = [cell(row, name, counts) if names.index(name) < names.index(row) else "" for name in columns]
        lines.append("| " + " | ".join([row.value, *cells]) + " |")
    lines += ["", "| layout | processes | runs |", "| --- | ---: | --- |"]
    for case in sorted({case for case, _ in done}, key=lambda case: (case.layout.world_size, case.name)):
        layout = case.layout
        had = [features(layout, case.bits, case.redundant, run)[6:] for run in case.runs]
        runs = "; ".join(", ".join(feature.value for feature in one) for one in had)
        shape = f"PP {layout.pp}, DP {layout.dp}, TP {layout.tp}, EP {layout.ep}, {case.bits} bits"
        shape += f", {case.redundant} copies" * bool(case.redundant)
        lines.append(f"| {shape} | {layout.world_size} | {runs} |")
    return "\n".join(lines) + "\n"


def ordered() -> list[Feature]:
    """Every feature, those of one kind together."""
    found = {feature: None for pair in possible() for feature in pair}
    kinds = ("tp", "ep", "dp", "pp", "copies", "bits", "spec", "pages", "page_tokens")
    order = {kind: place for place, kind in enumerate(kinds)}
    digits = lambda text: int("".join(filter(str.isdigit, text)) or 0)  # noqa: E731
    return sorted(found, key=lambda f: (order[f.kind], digits(f.value), f.value))


def cell(row: Feature, column: Feature, counts: Counter[Pair]) -> str:
    if row.kind == column.kind:
        return ""
    pair = frozenset((row, column))
    return str(counts[pair]) if pair in possible() else "–"
