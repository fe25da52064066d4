"""From a name or a directory to a model with its weights, and how many pages of cache fit beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import torch

from fathom.checkpoint import load_packed, mtp_layers, unpacked
from fathom.checkpoint.pack import Wanted
from fathom.config import ModelConfig, find_model
from fathom.cost import cache_bytes_per_token
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.layout.placement import Placement, balance
from fathom.layout.rows import here
from fathom.model import Model, OneAtATime, PackedTransformer, Transformer
from fathom.ops.packed import Peers, Weights

log = logging.getLogger(__name__)

BITS: dict[str, Wanted] = {"auto": "auto", "32": "f32", "16": "bf16", "8": "i8", "4": "i4"}
NUMERICS = ("exact", "fast")
LOADS = ("map", "copy")


def read_bits(bits: str | int) -> Wanted:
    """The kind of packed weights that so many bits mean; "auto" keeps what is stored."""
    if str(bits) not in BITS:
        raise ConfigError(f"bits is {bits!r}; it must be one of {', '.join(BITS)}.")
    return BITS[str(bits)]


def read_numerics(numerics: str) -> bool:
    """Whether every token's bits must be its own, whatever runs beside it."""
    if numerics not in NUMERICS:
        raise ConfigError(f"numerics is {numerics!r}; it must be one of {', '.join(NUMERICS)}.")
    return numerics == "exact"


def read_load(load: str) -> bool:
    """Whether a packed checkpoint is copied into memory."""
    if load not in LOADS:
        raise ConfigError(f"load is {load!r}; it must be one of {', '.join(LOADS)}.")
    return load == "copy"


def load_model(
    name_or_dir: str | Path,
    bits: str | int = "auto",
    *,
    mtp: bool | None = False,
    threads: int | None = None,
    numerics: str = "exact",
    load: str = "map",
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """The model in `name_or_dir` ("nano", or a directory of a checkpoint) on this CPU, ready to generate.

    Native kernels run it, and are exact at no extra cost. Without them plain torch does: exactly, one token at a time,
    or fast, where a token's last bits may depend on what is computed beside it.

    Args:   bits: of the weights: 32, 16, 8 or 4, or "auto" for what is stored. Fewer than stored are rounded now;
            `fathom convert` rounds with more care. mtp: load the multi-token prediction modules too; None: if the
            checkpoint holds any, as it may not. threads: of the kernels; None is as many as torch has, which then
            keeps one: two teams on the same cores wait for each other. load: "map" a packed checkpoint, or "copy" it
            into huge pages: a slower start, faster steps. progress: called with (done, in all).
    Raises: ConfigError, CheckpointError: it cannot be used; nothing was allocated if its files are at fault.
    """
    exact, kind, directory = read_numerics(numerics), read_bits(bits), find_model(name_or_dir)
    copy = read_load(load)
    config = ModelConfig.read(directory)
    modules = 0 if mtp is False else _mtp_layers(directory, config, needed=mtp is True)
    config = replace(config, num_nextn_predict_layers=modules)
    weights = load_packed(directory, config, kind=kind, mtp=modules > 0, copy=copy, progress=progress)
    packed = PackedTransformer.open(config, weights, threads)
    if packed is not None:
        torch.set_num_threads(1)
        return packed
    model = Transformer(config, mtp=modules > 0)
    model.load_state_dict(unpacked(weights, config))
    model.eval().requires_grad_(False)
    return OneAtATime(model) if exact else model


def load_part(
    name_or_dir: str | Path,
    layout: Layout,
    rank: int,
    meet: Callable[[Shard], Peers],
    *,
    bits: str | int = "auto",
    mtp: bool | None = None,
    threads: int = 1,
    load: str = "map",
    redundant: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PackedTransformer:
    """What `rank` of `layout` owns of a model; nothing else is read of its files.

    Args:   meet: gives the peers that have the rest; called once the weights are here. redundant: copies of experts per
            layer. The others as in `load_model`.
    Raises: ConfigError, CheckpointError: it cannot be used, or divided like this.
    """
    kind, copy, directory = read_bits(bits), read_load(load), find_model(name_or_dir)
    config = ModelConfig.read(directory)
    modules = 0 if mtp is False else _mtp_layers(directory, config, needed=mtp is True)
    config = replace(config, num_nextn_predict_layers=modules)
    shard = Shard(config, layout, rank, redundant)
    placements = first_placements(config, layout, redundant)
    weights = load_packed(
        directory, config, kind=kind, mtp=modules > 0, copy=copy, shard=shard, progress=progress,
        wanted=lambda name: here(name, shard, placements),
    )  # fmt: skip
    peers = meet(shard)
    for layer, placement in placements.items():
        peers.place(layer, placement)
    packed = PackedTransformer.open(config, weights, threads, shard, peers, placements)
    if packed is None:
        raise ConfigError("several ranks need the native kernels; `fathom doctor` says why there are none.")
    torch.set_num_threads(1)
    return packed


def first_placements(config: ModelConfig, layout: Layout, redundant: int) -> dict[int, Placement]:
    """Where experts lie before anything is known of their load, by layer; nothing where `Shard.experts` says it."""
    if not redundant:
        return {}
    slots = config.n_routed_experts + redundant
    even = balance([1] * config.n_routed_experts, slots=slots, ranks=layout.ep)
    layers = range(config.num_hidden_layers + config.num_nextn_predict_layers)
    return {layer: even for layer in layers if config.is_moe(layer)}


def load_experts(
    name_or_dir: str | Path, config: ModelConfig, wanted: Collection[tuple[int, int]], bits: str | int = "auto"
) -> Weights:
    """The weights of some experts, (layer, expert), to be placed into a model that runs.

    Args: config: that of the model, with the MTP modules that it has. bits: those it was loaded with.
    """
    prefixes = tuple(f"model.layers.{layer}.mlp.experts.{expert}." for layer, expert in wanted)
    mtp = config.num_nextn_predict_layers > 0
    return load_packed(
        find_model(name_or_dir), config, kind=read_bits(bits), mtp=mtp, copy=True,
        wanted=lambda name: name.startswith(prefixes),
    )  # fmt: skip


def _mtp_layers(directory: Path, config: ModelConfig, *, needed: bool) -> int:
    """MTP modules that both config.json and the weights have."""
    found = min(config.num_nextn_predict_layers, mtp_layers(directory)) if config.num_nextn_predict_layers else 0
    if needed and not found:
        raise ConfigError(f"{directory} has no MTP module, which guessing tokens ahead needs; use spec auto or off.")
    return found


def eos_token_ids(config: ModelConfig, tokenizer_eos_id: int | None = None) -> tuple[int, ...]:
    """Ids that end a reply: those of config.json, and the tokenizer's."""
    listed = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    return tuple(sorted({i for i in (*listed, tokenizer_eos_id) if i is not None}))


def pages_that_fit(
    config: ModelConfig, page_tokens: int, max_sequences: int, memory_fraction: float, dtype: torch.dtype,
    device: torch.device, *, mtp: bool = False,
) -> int:  # fmt: skip
    """Pages for `max_sequences` whole contexts, or as many as `memory_fraction` of the free memory holds."""
    page_bytes = page_tokens * cache_bytes_per_token(config, dtype.itemsize, mtp=mtp)
    per_context = -(-config.max_position_embeddings // page_tokens)
    fitting = int(free_bytes(device) * memory_fraction) // page_bytes
    if fitting < 1:
        raise ConfigError(
            f"memory_fraction is {memory_fraction}; it leaves no room for one page of {page_bytes} bytes. Free memory."
        )
    if fitting < per_context:
        log.warning(
            "latent cache: %d pages of %d tokens fit, so a request may have %d tokens, not the model's %d",
            fitting, page_tokens, fitting * page_tokens, config.max_position_embeddings,
        )  # fmt: skip
    return min(fitting, max_sequences * per_context)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on `device` [B]."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
