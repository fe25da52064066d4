"""From a plan to the TOML that `fathom serve` and `fathom plan deploy` read, and back from one to a plan's points."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fathom.errors import ConfigError
from fathom.layout.deploy import Deploy, Pool
from fathom.plan.clock import limits
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.latency import Setup
from fathom.plan.points import Point, best_both, best_decode, prefill_points
from fathom.plan.pools import Choices, Workload, replica
from fathom.plan.search import Service
from fathom.plan.shape import Shape

NAMES = {"both": "main", "prefill": "prefill", "decode": "decode"}


def deployment(service: Service, model: str, workload: Workload) -> Deploy:
    """The pools of a plan, with the limits of their engines."""
    made = [(service.decode, service.decodes)]
    if service.prefill is not None:
        made.insert(0, (service.prefill, service.prefills))
    return Deploy(model, tuple(_pool(point, count, workload) for point, count in made))


def _pool(point: Point, replicas: int, workload: Workload) -> Pool:
    setup, own = point.replica.setup, limits(point, workload)
    engine = {
        "max_sequences": own.max_sequences, "max_batch_tokens": own.max_batch_tokens, "page_tokens": own.page_tokens,
        "num_pages": own.num_pages, "max_stretch": own.max_stretch,
        "spec": str(setup.mtp) if setup.mtp and point.role != "prefill" else "off",
    }  # fmt: skip
    return Pool(
        NAMES[point.role], point.role, replicas, setup.layout, redundant_experts=setup.redundant,
        eplb="auto" if setup.redundant else "off", hardware=setup.device.name, engine=engine,
    )  # fmt: skip


def write(file: Path, service: Service, model: str, workload: Workload, remarks: Iterable[str]) -> None:
    """Write the deployment. Raises: ConfigError: the file cannot be written."""
    head = (
        *remarks,
        "Two micro-batches, and the precision of weights and cache, are the engine's to have: not set here.",
    )
    try:
        file.write_text(to_toml(deployment(service, model, workload), head), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({error.strerror}).") from error


def to_toml(deploy: Deploy, remarks: Iterable[str] = ()) -> str:
    """The file, with remarks at its head. Only what differs from a pool's defaults is written."""
    lines = [f"# {line}".rstrip() for line in remarks]
    lines += ["", f"model = {json.dumps(deploy.model)}"]
    for pool in deploy.pool:
        lines += ["", "[[pool]]", f"name = {json.dumps(pool.name)}"]
        lines += [f"role = {json.dumps(pool.role)}"] if pool.role != "both" else []
        lines += [f"replicas = {pool.replicas}"] if pool.replicas != 1 else []
        layout = pool.layout
        degrees = ", ".join(f"{n} = {getattr(layout, n)}" for n in ("pp", "dp", "tp", "ep") if getattr(layout, n) != 1)
        lines += [f"layout = {{ {degrees} }}"] if degrees else []
        for name in ("redundant_experts", "eplb", "hardware"):
            value = getattr(pool, name)
            lines += [f"{name} = {_value(value)}"] if value != getattr(Pool(), name) else []
        if pool.engine:
            lines += ["", "[pool.engine]", *(f"{name} = {_value(value)}" for name, value in pool.engine.items())]
    if deploy.engine:
        lines += ["", "[engine]", *(f"{name} = {_value(value)}" for name, value in deploy.engine.items())]
    return "\n".join([*lines, ""]).lstrip("\n")


def _value(value: Any) -> str:
    """As TOML: which writes strings, numbers and truths as JSON does, and has a word for infinity."""
    return "inf" if value == math.inf else json.dumps(value)


def from_deployment(
    deploy: Deploy, shape: Shape, catalogue: Catalogue, device: Device, choices: Choices, workload: Workload
) -> Service:
    """The best that a given deployment can do: its layouts, and whatever of the choices suits each pool.

    Raises: ConfigError: a pool does not fit, keeps no target, or there are pools that a plan does not have.
    """
    roles: Mapping[str, list[Pool]] = {
        role: [p for p in deploy.pool if p.role == role] for role in ("both", "prefill", "decode")
    }
    split = bool(roles["decode"])
    wanted = ("prefill", "decode") if split else ("both",)
    if any(len(roles[role]) != (1 if role in wanted else 0) for role in roles):
        raise ConfigError("a deployment to compare with has one pool, or one that prefills and one that decodes.")
    points = {}
    for role in wanted:
        (pool,) = roles[role]
        own = catalogue.find(pool.hardware) if pool.hardware else device
        points[role] = _best(pool, role, shape, own, choices, workload)
    if not split:
        return Service(points["both"], decodes=roles["both"][0].replicas)
    return Service(points["decode"], points["prefill"], roles["decode"][0].replicas, roles["prefill"][0].replicas)


def _best(pool: Pool, role: str, shape: Shape, device: Device, choices: Choices, workload: Workload) -> Point:
    """The fastest of a pool's layout with and without overlap and drafts."""
    found: list[Point] = []
    fits = False
    drafts = (0,) if role == "prefill" or not shape.mtp else choices.mtp
    for overlap in choices.overlap:
        for mtp in drafts:
            setup = Setup(
                shape, device, pool.layout, precision=choices.precisions[0], cache=choices.caches[0],
                engine=choices.engine, mtp=mtp, acceptance=choices.acceptance, overlap=overlap,
                redundant=pool.redundant_experts,
            )  # fmt: skip
            one = replica(setup, workload)
            if one is None:
                continue
            fits = True
            if role == "prefill":
                found += prefill_points(one, workload)
            else:
                point = best_decode(one, workload) if role == "decode" else best_both(one, workload)
                found += [point] if point else []
    if not found:
        why = "keeps the target at no load" if fits else "has no room for a request in each lane"
        raise ConfigError(f"pool {pool.name} of the deployment to compare with {why}.")
    return max(found, key=lambda point: point.rate)
