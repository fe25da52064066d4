"""What a model is and how a run is described: config.json, presets, TOML recipes, efforts, the environment.

Field names are those of the public Hugging Face `config.json`: a released file loads as it is, and ours loads there.
Imports errors only; no torch, nothing at import time. Read model.py first, then recipe.py.
"""

from fathom.config.environment import (
    OPS_CHOICES,
    Host,
    cache_dir,
    child_environment,
    launched_host,
    ops_choice,
    settle_ray,
    use_interface,
)
from fathom.config.find import PRESETS, find_model, load_config, preset
from fathom.config.model import FP8_BLOCK, PACKED_METHOD, ModelConfig, Packed, RopeScaling, yarn_mscale
from fathom.config.recipe import build, nearest, read_json, read_toml, settings
from fathom.config.shapes import SHAPES

__all__ = [
    "FP8_BLOCK", "OPS_CHOICES", "PACKED_METHOD", "PRESETS", "SHAPES", "Host", "ModelConfig", "Packed", "RopeScaling",
    "build", "cache_dir", "child_environment", "find_model", "launched_host", "load_config", "nearest", "ops_choice",
    "preset", "read_json", "read_toml", "settings", "settle_ray", "use_interface", "yarn_mscale",
]  # fmt: skip
