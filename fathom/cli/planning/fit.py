"""`fathom plan fit`: whether a model fits on some devices, with the arithmetic."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.layout import Layout
    from fathom.plan.fit import Fit

NAME = "fit"
SUMMARY = "whether a model fits on some devices"
HELP = (
    "Whether a model fits on some devices, with the arithmetic: weights, runtime, activations, room for contexts, what "
    "binds, and the smallest change that would make it fit. Exits 0 if it fits, 1 if it does not, 2 on bad input."
)
GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan fit`."""
    parser.add_argument("model", help="a preset such as deepseek-v3 or llama-3.1-405b, or a config.json")
    parser.add_argument("--on", required=True, metavar="DEVICES", help="such as 8xh100")
    parser.add_argument(
        "--precision", default="", help="of the weights: bf16, fp8, nvfp4, int4, ... (default: as stored)"
    )
    parser.add_argument("--cache", default="bf16", choices=("bf16", "fp8"), help="of the cache (default: bf16)")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of a request (default: 4096)")
    parser.add_argument("--layout", metavar="L", help="such as tp=8 or dp=8,ep=8 (default: the roomiest)")
    parser.add_argument("--mtp", action="store_true", help="with the multi-token prediction module")
    parser.add_argument(
        "--redundant", type=int, default=0, metavar="N", help="copies of experts per layer (default: 0)"
    )
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="a TOML file with devices of your own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Answer; 0 yes, 1 no."""
    from fathom.plan import families
    from fathom.plan.fit import fit
    from fathom.plan.hardware import Catalogue

    catalogue = Catalogue.read(args.hardware)
    count, device = catalogue.counted(args.on)
    found = fit(
        families.find(args.model), device, count, precision=args.precision, cache=args.cache, context=args.context,
        layout=layout(args.layout) if args.layout else None, mtp=args.mtp, redundant=args.redundant,
    )  # fmt: skip
    print(json.dumps(facts(found)) if args.json else "\n".join(report(found)))
    return 0 if found.fits else 1


def layout(text: str) -> Layout:
    """Of `tp=8` or `dp=8,ep=8`. Raises: ConfigError: it is not understood."""
    from fathom.config import build
    from fathom.layout import Layout

    try:
        degrees = {name.strip(): int(number) for name, number in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ConfigError(f"--layout is {text!r}; write it like tp=8 or dp=8,ep=8.") from None
    return build(Layout, degrees, "--layout")


def facts(found: Fit) -> dict[str, Any]:
    """As JSON; bytes are those of one device."""
    setup, held = found.setup, found.memory
    one = setup.layout
    return {
        "fits": found.fits, "model": setup.shape.name, "device": setup.device.name, "count": found.count,
        "precision": setup.weights.name, "cache": setup.cache, "context_tokens": found.context,
        "layout": {"pp": one.pp, "dp": one.dp, "tp": one.tp, "ep": one.ep},
        "bytes_per_device": {name: round(size) for name, size in held.parts.items()},
        "used_bytes": round(held.used), "capacity_bytes": round(held.capacity),
        "memory_bytes": round(setup.device.memory_bytes),
        "missing_bytes": round(found.missing), "cache_bytes_per_token": held.token_bytes,
        "cache_tokens": int(held.room), "contexts": int(found.contexts), "binding": found.binding,
        "changes": list(found.changes), "device_grade": setup.device.grade, "device_source": setup.device.source,
    }  # fmt: skip


def report(found: Fit) -> Iterator[str]:
    """The lines that a person reads."""
    setup, held = found.setup, found.memory
    degrees = {"pp": setup.layout.pp, "dp": setup.layout.dp, "tp": setup.layout.tp, "ep": setup.layout.ep}
    cut = ", ".join(f"{name} {n}" for name, n in degrees.items() if n > 1) or "one device"
    answer = "fits" if found.fits else "does not fit"
    yield f"{setup.shape.name} in {setup.weights.name.upper()} {answer} on {found.count} x {setup.device.title}, {cut}"
    yield "per device"
    for name, size in held.parts.items():
        if size >= 5e6:
            yield _row(name.replace("_", " "), f"{size / GB:,.2f} GB", "largest" if name == found.binding else "")
    yield _row("together", f"{held.used / GB:,.2f} GB")
    yield _row("of", f"{held.capacity / GB:,.2f} GB", f"95 % of {setup.device.memory_gb:g} GB")
    token = f"{held.token_bytes:,.0f} B a token on each device"
    if found.fits:
        yield _row("left for the cache", f"{(held.capacity - held.used) / GB:,.2f} GB", token)
        yield _row("tokens of the replica", f"{held.room:,.0f}")
        yield _row(f"contexts of {found.context:,} tokens", f"{found.contexts:,.0f}")
        return
    yield _row("missing", f"{found.missing / GB:,.2f} GB", f"for one context of {found.context:,} tokens; {token}")
    yield "it would fit with " + ("\n             or with ".join(found.changes) or "nothing this planner knows of")


def _row(title: str, value: str, note: str = "") -> str:
    return f"  {title:<32}{value:>16}  {note}".rstrip()
