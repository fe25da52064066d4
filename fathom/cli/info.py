"""`fathom info`: what a model is made of, counted exactly."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from fathom.config import PRESETS, find_model, load_config
from fathom.cost import info, memory
from fathom.errors import ConfigError

NAME = "info"
HELP = "Count a model from its config.json: parameters, checkpoint, cache and FLOPs per token. Loads no weights."

PART_NAMES = {
    "embedding": "embedding", "attention": "attention", "dense_mlp": "dense MLPs", "experts": "routed experts",
    "shared_experts": "shared experts", "router": "routers", "norm": "norms", "head": "head",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom info`."""
    parser.add_argument("model", help=f"a directory, a config.json, or one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--bits", type=int, choices=(32, 16, 8, 4), help="the memory that it takes to run it so (default: as packed)"
    )
    parser.add_argument("--group", type=int, choices=(32, 64, 128), help="weights per scale, with --bits 8 or 4")
    parser.add_argument("--cache-tokens", type=int, metavar="N", help="tokens cached (default: one longest context)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the counts of `args.model`."""
    config = load_config(args.model)
    bits = args.bits or (config.packed.bits if config.packed else None)
    if bits is None and (args.group or args.cache_tokens):
        raise ConfigError("--group and --cache-tokens are for the memory of a packed model; add --bits.")
    counts: dict[str, Any] = {"model": args.model} | info(config)
    if bits is not None:
        group = args.group or (config.packed.group if config.packed else None)
        counts["memory"] = memory(config, bits, group, tokens=args.cache_tokens)
    if has_weights(args.model):
        from fathom.engine.slowdown import served

        counts["served"] = served().to_dict()
    print(json.dumps(counts) if args.json else "\n".join(report(args.model, counts)))
    return 0


def has_weights(name: str) -> bool:
    """Whether the model could be run here: only then does it matter who would serve it."""
    try:
        return any(find_model(name).glob("*.safetensors"))
    except ConfigError:
        return False


def report(name: str, counts: dict[str, Any]) -> Iterator[str]:
    """The lines of the table that a person reads."""
    total = counts["parameters_total"]
    yield f"{name}: {counts['model_type']}, {counts['layers']} layers, {counts['moe_layers']} of them with experts"
    yield ""
    yield _row("parameters", total, _short(total))
    for part, title in PART_NAMES.items():
        if part in counts["parameters_by_part"]:
            count = counts["parameters_by_part"][part]
            yield _row(f"  {title}", count, f"{count / total:.1%}")
    yield _row("activated per token", counts["parameters_activated"], _short(counts["parameters_activated"]))
    without = counts["parameters_activated_no_embedding"]
    yield _row("  without input embedding", without, _short(without))
    if counts["mtp_parameters"]:
        yield _row("MTP modules add", counts["mtp_parameters"], _short(counts["mtp_parameters"]))
    yield ""
    stored = ", ".join(f"{dtype} {_short(n)}" for dtype, n in counts["checkpoint_elements_by_dtype"].items())
    yield _row("checkpoint tensors", counts["checkpoint_tensors"])
    yield _row("checkpoint elements", counts["checkpoint_elements"], stored)
    yield _row("checkpoint bytes", counts["checkpoint_bytes"], f"{counts['checkpoint_bytes'] / 2**30:,.2f} GiB")
    yield ""
    cache = counts["cache_bytes_per_token"]
    saved = counts["expanded_cache_bytes_per_token"] / cache
    yield _row("latent cache bytes per token", cache, f"keys and values of every head would take {saved:.1f}x")
    for title, key in (("reading", "prefill"), ("writing", "decode"), ("training on", "training")):
        flops = round(counts[f"{key}_flops_per_token_4k"])
        yield _row(f"FLOPs per token {title} 4k", flops, f"{flops / 1e9:,.2f} GFLOP")
    if "memory" in counts:
        yield ""
        yield from _memory(counts["memory"])
    if "served" in counts:
        yield ""
        yield from _served(counts["served"])
    yield ""
    yield _row("longest context [tokens]", counts["max_position_embeddings"])
    yield f"{'softmax scale':<30}{counts['softmax_scale']:>23.7f}"
    if counts["yarn_low"] is not None:
        yield f"{'YaRN ramp over rotary pairs':<30}{counts['yarn_low']:>20} to {counts['yarn_high']}"


def _memory(held: dict[str, Any]) -> Iterator[str]:
    notes = {
        "weights": f"{held['bits_per_weight']:.2f} bits per weight, with scales and padding",
        "scales": "", "plain": "embedding, norms, biases", "cache": f"{held['cache_tokens']:,} tokens",
        "workspace": f"steps of {held['step_tokens']} tokens", "process": "Python and torch, measured",
    }  # fmt: skip
    total = held["total_bytes"]
    yield _row(f"memory at {held['bits']} bits", total, f"{total / 2**30:,.2f} GiB")
    for part, note in notes.items():
        yield _row(f"  {part}", held[f"{part}_bytes"], note)


def _served(by: dict[str, Any]) -> Iterator[str]:
    yield f"{'served by':<30}{by['answers']:>23}  {by['why']}".rstrip()
    yield f"{'  ms per token of nano':<30}{by['token_ms']:>23.3f}  measured here, one at a time"
    yield f"{'  plain torch is slower':<30}{by['times_slower']:>22.0f}x  than kernels, measured on {by['measured_on']}"


def _row(title: str, value: int, note: str = "") -> str:
    return f"{title:<30}{value:>23,}  {note}".rstrip()


def _short(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return str(count)
