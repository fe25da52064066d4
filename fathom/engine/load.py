"""From a name or a directory to a model with its weights, and how many pages of cache fit beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fathom.checkpoint import load_weights, mtp_layers
from fathom.config import ModelConfig, find_model
from fathom.cost import cache_bytes_per_token, mtp_parameters
from fathom.errors import ConfigError
from fathom.model import Transformer

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_dtype(name: str, config: ModelConfig) -> torch.dtype:
    """The type called `name`; "auto" is what config.json says the weights are."""
    wanted = config.torch_dtype if name == "auto" else name
    if wanted not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; it must be auto, {', '.join(DTYPES)}.")
    return DTYPES[wanted]


def load_model(
    name_or_dir: str | Path,
    dtype: str = "float32",
    *,
    mtp: bool | None = False,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Transformer:
    """The model in `name_or_dir` ("nano", or a directory of a checkpoint), ready to generate.

    Args:   mtp: load the multi-token prediction modules too; None: if the checkpoint holds any, as it may not.
            progress: called with (bytes done, bytes in all).
    Raises: ConfigError, CheckpointError: it cannot be used; nothing was allocated if its files are at fault.
    """
    directory = find_model(name_or_dir)
    config = ModelConfig.read(directory)
    if mtp is not False:
        config = replace(config, num_nextn_predict_layers=_mtp_layers(directory, config, needed=mtp is True))
    modules = config.num_nextn_predict_layers if mtp is not False else 0
    model = Transformer(config, mtp=modules > 0, dtype=read_dtype(dtype, config), device=device)
    load_weights(model, directory, progress=progress)
    if modules:
        size = mtp_parameters(config) * read_dtype(dtype, config).itemsize / 1e6
        log.info("multi-token prediction: %d module(s), %.1f MB of weights beside the model's", modules, size)
    return model.eval().requires_grad_(False)


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
