"""How weights are stored and multiplied: bytes per weight with its scales, and which peak of a device they run at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fathom.config import nearest
from fathom.errors import ConfigError

Peak = Literal["bf16", "fp8", "fp4", "int8"]


@dataclass(frozen=True)
class Precision:
    """Fields: weight_bytes: of a quantised weight, scales included [B]. peak: what its products run at."""

    name: str
    weight_bytes: float
    peak: Peak
    experts_only: bool = False  # attention and dense MLPs stay as `rest` says
    rest: str = "bf16"
    note: str = ""


#: Scales: one FP32 for 128 x 128 weights (DeepSeek-V3, section 3.3.2); one FP8 for 16 (NVFP4); one E8M0 for 32 (MXFP4);
#: one BF16 for 32 (INT4, as Kimi-K2.5 has it). GGUF's q4_k_m is 4.85 bits a weight over a whole DeepSeek-V3.
PRECISIONS = {
    one.name: one
    for one in (
        Precision("bf16", 2.0, "bf16"),
        Precision("fp32", 4.0, "bf16"),
        Precision("fp8", 1.0 + 4 / 128**2, "fp8", note="blocks of 128 x 128"),
        Precision("int8", 1.0 + 2 / 128, "int8"),
        Precision("nvfp4", 0.5 + 1 / 16, "fp4", experts_only=True, rest="fp8", note="experts; the rest in FP8"),
        Precision("mxfp4", 0.5 + 1 / 32, "fp4", experts_only=True, note="experts; the rest in BF16"),
        Precision("int4", 0.5 + 2 / 32, "bf16", experts_only=True, note="experts; the rest in BF16"),
        Precision("q4_k_m", 4.85 / 8, "bf16", note="llama.cpp"),
        Precision("q8_0", 1.0 + 2 / 32, "int8", note="llama.cpp"),
    )
}


def precision(name: str) -> Precision:
    """The precision called `name`."""
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is not known{nearest(name, PRECISIONS)}; use {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]
