"""A deployment that exists beside the best that the search found: what it would do, and its place among all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fathom.layout.deploy import read_deploy
from fathom.plan.deployment import from_deployment
from fathom.plan.hardware import Catalogue
from fathom.plan.points import Point
from fathom.plan.pools import Choices
from fathom.plan.search import Service, price
from fathom.plan.serving import Found, interval, layout_name, name_of, step_of

NODE = 8


def against(found: Found, where: str | Path, catalogue: Catalogue, choices: Choices) -> Iterator[str]:
    """Lines that set the deployment in a file beside the plan, on the hardware that it names, else the plan's.

    Raises: ConfigError: it cannot be read, or keeps no target.
    """
    asked, best = found.workload, found.chosen
    setup = best.decode.replica.setup
    theirs = from_deployment(read_deploy(where), setup.shape, catalogue, setup.device, choices, asked)
    yield f"Compared with {where}: {name_of(theirs)}"
    rate = theirs.rate_per_gpu / best.rate_per_gpu - 1.0
    yield f"  {abs(rate):.1%} {'more' if rate >= 0 else 'fewer'} requests per GPU than the plan"
    for point in (each for each in (theirs.prefill, theirs.decode) if each is not None):
        tokens = asked.input if point.role == "prefill" else asked.output
        each = point.rate_per_gpu * tokens * NODE
        low, high = interval(each, step_of(point).sd)
        (place, count), behind = rank(point, found), 1.0 - point.rate_per_gpu / leader(point, found)
        what = "prompts" if point.role == "prefill" else "replies"
        yield (
            f"  {what}: {each:,.0f} tok/s per {NODE} GPUs ({low:,.0f} to {high:,.0f}); {layout_name(point.replica)} "
            f"is number {place} of {count} layouts, {behind:.1%} behind the first"
        )


def rivals(point: Point, found: Found) -> Sequence[Point]:
    """All that do the same work within the targets."""
    own = {"prefill": found.pools.prefill, "decode": found.pools.decode, "both": found.pools.both}
    return own[point.role]


def rank(point: Point, found: Found) -> tuple[int, int]:
    """(place, of how many) among layouts by requests for their price; each counts once, with what suits it best."""
    best: dict[object, float] = {}
    for one in rivals(point, found):
        best[one.key] = max(best.get(one.key, 0.0), one.rate / price(one))
    mine = point.rate / price(point)
    better = sum(value > mine * (1 + 1e-9) for other, value in best.items() if other != point.key)
    return better + 1, len(best.keys() | {point.key})


def leader(point: Point, found: Found) -> float:
    """Requests per second and GPU of the best at the same work."""
    return max((one.rate_per_gpu for one in rivals(point, found)), default=point.rate_per_gpu)


def rank_of(service: Service, found: Found) -> tuple[int, int]:
    """(place, of how many) of a whole service among those found, by requests per GPU; each pair of layouts once."""
    best: dict[object, float] = {}
    for one in found.services:
        best[one.key] = max(best.get(one.key, 0.0), one.rate_per_gpu)
    better = sum(value > service.rate_per_gpu * (1 + 1e-9) for key, value in best.items() if key != service.key)
    return better + 1, len(best.keys() | {service.key})
