"""A row of a file of measured points -> a case that the planner can predict, or the reason why it will not.

Columns: id, kind, system, model, hardware, n_gpus, parallelism, precision, input_len, output_len, batch, metric, value,
unit, conditions, group. What people wrote by hand is read loosely (`TP8`, `DEP8 (attn DP)`, `P 1x(TP4 EP4) D 4x(TP8)`,
`conc 64`); what is not understood is refused by name, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import families
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.latency import Setup
from fathom.plan.rates import Service
from fathom.plan.shape import Shape

#: What a name means where it is not that of a preset.
ALIASES = (
    (r"deepseek.*(r1|v3)|^v3\b", "deepseek-r1"),
    (r"deepseek.*v2.*lite", "deepseek-v2-lite"),
    (r"deepseek.*v2", "deepseek-v2"),
    (r"kimi.*k2", "kimi-k2"),
    (r"minimax.*m2", "minimax-m2.5"),
    (r"qwen3\.5.*397b", "qwen3.5-397b-a17b"),
    (r"qwen3.*235b", "qwen3-235b-a22b"),
    (r"qwen3.*30b", "qwen3-30b-a3b"),
    (r"qwen3.*32b", "qwen3-32b"),
    (r"qwen3.*8b", "qwen3-8b"),
    (r"qwen3.*0\.6b", "qwen3-0.6b"),
    (r"qwen2\.5.*72b", "qwen2.5-72b"),
    (r"llama.*405b", "llama-3.1-405b"),
    (r"llama.?2.*70b", "llama-2-70b"),
    (r"llama.*70b", "llama-3.1-70b"),
    (r"llama.?2.*13b", "llama-2-13b"),
    (r"llama.?2.*7b", "llama-2-7b"),
    (r"llama.*8b", "llama-3.1-8b"),
    (r"llama.?4.*maverick", "llama-4-maverick"),
    (r"llama.?4.*scout", "llama-4-scout"),
    (r"gpt.?oss.*120b", "gpt-oss-120b"),
    (r"gpt.?oss.*20b", "gpt-oss-20b"),
    (r"mixtral.*8x22b", "mixtral-8x22b"),
    (r"mixtral.*8x7b", "mixtral-8x7b"),
    (r"moonlight", "moonlight"),
)
ENGINES = {"sglang": "sglang", "vllm": "vllm", "trtllm": "trtllm", "tensorrt": "trtllm", "deepseek": "deepseek",
           "cloudmatrix": "cloudmatrix", "mlperf": "trtllm"}  # fmt: skip
DEGREE = re.compile(r"(?<![A-Z])(DEP|TP|DP|EP|PP)\s?[=:]?\s?(\d+)", re.IGNORECASE)
APART = re.compile(r"P(?:: ?| )(?:(\d+) ?x ?)?\(?(.*?)\)?[ ,;+/]+D(?:: ?| )(?:(\d+) ?x ?)?\(?(.*?)\)?", re.IGNORECASE)
WRITTEN = (("w4", "mxfp4"), ("q4_k_m", "q4_k_m"), ("int8", "int8"), ("fp8", "fp8"), ("bf16", "bf16"), ("fp16", "bf16"))
#: When a round of MLPerf was submitted, a version or a month that a system names.
RELEASES = (("v5.1", "2025-08"), ("v6.0", "2026-02"), ("sglang 0.4", "2025-05"), ("june 2025", "2025-06"))
RANDOM_SHARE = 0.9  # lengths uniform in [0.8, 1.0] of nominal: their mean
#: Mean tokens of the data sets of MLPerf Inference (prompt, answer) where a row does not say, and the squared variation
#: of the answers, from the percentiles in its logs; mlcommons/inference, inference_results_v5.1.
DATASETS = {"deepseek-r1": (800, 3750, 1.5), "llama-2-70b": (294, 294, 0.8), "llama-3.1-405b": (9400, 684, 0.4),
            "mixtral-8x7b": (400, 145, 1.0), "llama-3.1-8b": (778, 73, 0.15)}  # fmt: skip
#: Limits of its scenarios that 99 of 100 requests keep: to the first token, and per token [s]; loadgen/mlperf.conf.
LIMITS = {
    "deepseek-r1": {"server": (2.0, 0.080), "interactive": (1.5, 0.015)},
    "llama-2-70b": {"server": (2.0, 0.200), "interactive": (0.45, 0.040)},
    "llama-3.1-405b": {"server": (6.0, 0.175), "interactive": (4.5, 0.080)},
    "mixtral-8x7b": {"server": (2.0, 0.200)},
    "llama-3.1-8b": {"server": (2.0, 0.100), "interactive": (0.5, 0.030)},
    "gpt-oss-120b": {"server": (3.0, 0.080), "interactive": (2.0, 0.015)},
}
#: What runs use of the nearer limit: the median of 233 logs of v5.1 and v6.0 (0.68 to 0.99, nine in ten of them below).
KEPT = 0.9


@dataclass(frozen=True)
class Refusal:
    """Why a row is not predicted."""

    reason: str


@dataclass(frozen=True)
class Case:
    """One measured point, understood.

    way: aggregated, split, saturated (no batch is given: as many as fit), decode, prefill. setup: of the replica (of
    those that decode); reads: of those that read prompts. limit_s: on the time per token. value: in `unit`.
    first_s: limit on the first token, where requests come at random. alternating: it may run two micro-batches.
    variation: squared, of the lengths of answers.
    """

    id: str
    group: str
    way: str
    metric: str
    unit: str
    value: float
    setup: Setup
    prompt: float
    output: float
    concurrency: float = 0.0
    limit_s: float = float("inf")
    first_s: float = float("inf")
    reads: Setup | None = None
    replicas: tuple[int, int] = (1, 1)
    devices: int = 1
    cached: float = 0.0
    poll: float = 1
    alternating: bool = True
    variation: float = 0.0

    @property
    def service(self) -> Service:
        """The same, as rates.py takes it."""
        return Service(
            self.setup, self.concurrency, self.prompt, self.output, self.reads, self.replicas, self.poll, ran=True
        )  # fmt: skip


def normal(row: dict[str, str], before: dict[str, str] | None = None) -> dict[str, str]:
    """A row whose conditions say "same" of the row before it has that row's conditions too."""
    if before is not None and row["conditions"].lower().startswith("same") and row["model"] == before["model"]:
        return {**row, "conditions": f"{before['conditions']}; {row['conditions']}"}
    return row


def case(row: Mapping[str, str], catalogue: Catalogue) -> Case | Refusal:
    """What a serving row asks."""
    try:
        return _case(row, catalogue)
    except ConfigError as error:
        return Refusal(str(error))


def engine_of(system: str) -> str:
    """The engine that a system's name tells of; "" if none."""
    plain = system.lower()
    return next((name for word, name in ENGINES.items() if word in plain), "")


def counted(text: str, what: str) -> float:
    """A finite number above 0. Raises: ConfigError: it is not."""
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{what} is {text!r}; a number above 0 is needed.")
    return number


def model(name: str) -> Shape:
    """The shape that a name means. Raises: ConfigError: none is known."""
    plain = name.lower()
    if re.search(r"v3\.2|\bdsa\b", plain):
        raise ConfigError(f"{name}: sparse attention (DSA) is not modelled.")
    for pattern, found in ALIASES:
        if re.search(pattern, plain):
            return families.find(found)
    return families.find(name)


def _case(row: Mapping[str, str], catalogue: Catalogue) -> Case | Refusal:
    shape = model(row["model"])
    if "+" in row["hardware"].replace("+ CX", "").replace("+CX", ""):
        return Refusal("devices of two kinds: a GPU beside a CPU that holds the experts")
    device = catalogue.find(re.sub(r"^\d+x ", "", row["hardware"]))
    if device.memory.startswith("DDR"):
        return Refusal("a CPU; the laws of kernels are those of accelerators (see `fathom plan calibrate`)")
    system, conditions = row["system"].lower(), row["conditions"].lower()
    engine = engine_of(system)
    number, unit = counted(row["value"], "value"), row["unit"]
    count = max(1, int(counted(row["n_gpus"] or "1", "n_gpus")))
    if row["input_len"].startswith("n/p") and row["output_len"].startswith("n/p") and shape.name not in DATASETS:
        return Refusal("the lengths of its prompts and answers are not published")
    prompt, output = lengths(row, shape.name)
    base = Setup(
        shape, device, precision=weights(row["precision"], shape), engine=engine, date=dated(system, conditions),
        mtp=drafts(row, shape), acceptance=accepted(conditions), cache=cached_as(row, device, engine),
        overlap=alternates(row, engine), redundant=redundant(row, shape),
        balancedness=1.0 if "balanced routing" in conditions else None,
    )  # fmt: skip
    made: dict[str, Any] = {
        "id": row["id"],
        "group": row["group"],
        "metric": row["metric"],
        "unit": unit,
        "value": number,
    }
    spread = _replicas(row["parallelism"], base)
    if spread is not None:
        reads, decodes, replicas = spread
        devices = replicas[0] * reads.devices + replicas[1] * decodes.devices
        return Case(**made, way="split", setup=decodes, reads=reads, replicas=replicas, prompt=prompt, output=output,
                    concurrency=_concurrency(row), devices=devices)  # fmt: skip
    limits = next((found for name, found in LIMITS.get(shape.name, {}).items() if name in system), None)
    if row["kind"] == "serving_mixed" and not row["batch"].strip().startswith("conc"):
        if row["metric"].startswith("tpot") and limits is None:
            return Refusal("a time per token without a number of requests")
        first_s, token_s = limits or (math.inf, math.inf)
        varied = DATASETS[shape.name][2] if "mean" in row["output_len"] and shape.name in DATASETS else 0.0
        return Case(**made, way="saturated", setup=base, prompt=prompt, output=output, devices=count,
                    limit_s=KEPT * token_s, first_s=KEPT * first_s, variation=varied)  # fmt: skip
    setup = _with_layout(base, layout(row["parallelism"], count, shape))
    if row["kind"] == "serving_mixed":
        return Case(**made, way="aggregated", setup=setup, prompt=prompt, output=output, devices=setup.devices,
                    concurrency=_concurrency(row), poll=poll(row, device, engine))  # fmt: skip
    return _large(row, setup, made, prompt, output, count)


def _large(
    row: Mapping[str, str], setup: Setup, made: dict[str, Any], prompt: float, output: float, count: int
) -> Case | Refusal:
    """Rows of prefill and decode apart."""
    way = "prefill" if row["kind"] == "serving_prefill" else "decode"
    batch = re.search(r"([\d,.]+)\s*(k?)\s*(?:req|tok)", row["batch"].lower())
    each = float(batch[1].replace(",", "")) * (1024 if batch[2] else 1) if batch else 0.0
    number = re.search(r"^\d+$", row["batch"].strip())
    if number:
        each = float(number[0]) / setup.layout.dp * (prompt if way == "prefill" else 1)
    if not prompt > 0:
        raise ConfigError(f"prompts or contexts of {prompt:g} tokens; they must be above 0.")
    limit = float("inf")
    if found := re.search(r"tpot\s*<=?\s*([\d.]+)\s*ms", row["conditions"].lower()):
        limit = float(found[1]) / 1e3
    if found := re.search(r"([1-9]\d*)-(\d+) tok/s(?:/user| per user)", row["conditions"].lower()):
        limit = 2.0 / (float(found[1]) + float(found[2]))
    if re.search(r"no[- ](?:tbo|dbo|overlap)|overlap off", f"{row['parallelism']} {row['conditions']}".lower()):
        made = {**made, "alternating": False}
    return Case(**made, way=way, setup=setup, prompt=prompt, output=output, concurrency=each * setup.layout.dp,
                devices=count, limit_s=limit, cached=_hits(row))  # fmt: skip


def dated(system: str, conditions: str) -> str:
    """Year and month of a measurement, as a row or the release of its engine says; "" otherwise."""
    if found := re.search(r"measured=(20\d\d-(?:0[1-9]|1[0-2]))", conditions):
        return found[1]
    return next((date for word, date in RELEASES if word in system), "")


def _inferencex(row: Mapping[str, str]) -> bool:
    return "inferencex" in f"{row.get('source', '')} {row['conditions']}".lower()


def cached_as(row: Mapping[str, str], device: Device, engine: str) -> Literal["bf16", "fp8"]:
    """How latents, keys and values are kept: as a row says; InferenceX: FP8, but for SGLang on Hopper; MLPerf: FP8."""
    if "gpt-oss(blackwell)" in row["conditions"].lower() and "gpt" in row["model"] and device.fp4_tflops is None:
        return "bf16"
    narrow = _inferencex(row) and (device.fp4_tflops is not None or engine == "trtllm")
    narrow = narrow or "mlperf" in row["system"].lower()
    return "fp8" if narrow or "fp8 kv" in row["conditions"].lower() else "bf16"


def poll(row: Mapping[str, str], device: Device, engine: str) -> float:
    """Decode steps between two looks at the door: InferenceX lets SGLang look rarely on Blackwell
    (`--scheduler-recv-interval`, benchmarks/single_node/fixed_seq_len)."""
    if engine != "sglang" or not _inferencex(row) or device.fp4_tflops is None:
        return 1
    return 30 if _concurrency(row) >= 16 else 10


def alternates(row: Mapping[str, str], engine: str) -> bool:
    """Whether two micro-batches take turns: as a row says; CloudMatrix-Infer always (arXiv:2506.12708, section 4.2)."""
    said = words(row)
    return engine == "cloudmatrix" or any(word in said for word in ("tbo", "dbo", "overlap"))


def _hits(row: Mapping[str, str]) -> float:
    """Share of the prompts' tokens that were in the cache and are counted."""
    found = re.search(r"incl\D*([\d.]+)\s*%", row["conditions"])
    return float(found[1]) / 100 if found else 0.0


def words(row: Mapping[str, str]) -> str:
    """Layout and conditions, with what is said to be off taken out."""
    text = f"{row['parallelism']} {row['conditions']}".lower()
    return re.sub(r"(no[- ]|without )\w+|\w+([- ]\w+)* off", "", text)


def lengths(row: Mapping[str, str], name: str) -> tuple[float, float]:
    """Mean tokens of a prompt and of an answer."""
    share = RANDOM_SHARE if "[0.8,1.0]" in row["conditions"] else 1.0
    usual = (4096, 0) if row["kind"] != "serving_mixed" else DATASETS.get(name, (1024, 1024))
    found = [_length(row[key], usual[at]) * share for at, key in enumerate(("input_len", "output_len"))]
    return found[0], found[1]


def _length(text: str, usual: float) -> float:
    if not text or text.startswith("n/p"):
        return float(usual)
    numbers = [
        float(n.replace(",", "")) * (1024 if k else 1) for n, k in re.findall(r"([\d,]+(?:\.\d+)?)([kK]?)", text)
    ]
    if "-" in text and len(numbers) > 1 and "mean" not in text:
        return sum(numbers[:2]) / 2
    return numbers[0] if numbers else float(usual)


def weights(text: str, shape: Shape) -> str:
    """The precision of the weights that a text names; "" for that of the checkpoint."""
    plain = text.lower()
    if "nvfp4" in plain or "fp4" in plain:
        return "mxfp4" if shape.family == "gpt_oss" else "nvfp4"
    return next((name for word, name in WRITTEN if word in plain), "")


def drafts(row: Mapping[str, str], shape: Shape) -> int:
    """Tokens drafted per step, at most: of a model with an MTP module, where a row speaks of it and does not deny it.

    MLPerf allows it from v6.0 on.
    """
    if shape.mtp is None or "v5.1" in row["system"]:
        return 0
    text = row["conditions"].lower() + row["parallelism"].lower()
    if "no mtp" in text or "mtp" not in text:
        return 0
    return 1


def accepted(conditions: str) -> float:
    """How often a draft is right: as a row says; 0 where it counts steps; else DeepSeek-V3's 0.85 (section 5.4.3)."""
    if "verify batch" in conditions:
        return 0.0
    found = re.search(r"(\d+)\s*%\s*acceptance", conditions)
    return float(found[1]) / 100 if found else 0.85


def redundant(row: Mapping[str, str], shape: Shape) -> int:
    """Copies of experts: 32 where many ranks share them, as DeepSeek, SGLang and CloudMatrix have it."""
    found = re.search(r"EP(\d+)", row["parallelism"])
    return 32 if found and int(found[1]) >= 32 and shape.moe and row["kind"] != "serving_mixed" else 0


def layout(text: str, count: int, shape: Shape) -> Layout:
    """The layout of one replica on `count` devices. Raises: ConfigError: it is not understood."""
    degrees = {name.lower(): int(n) for name, n in DEGREE.findall(text)}
    if "dep" in degrees:
        return Layout(dp=degrees["dep"], ep=degrees["dep"] if shape.moe else 1)
    if found := re.search(r"(\d+) ranks", text):
        return Layout(dp=int(found[1]), ep=int(found[1]))
    tp, dp, ep, pp = (degrees.get(name, 1) for name in ("tp", "dp", "ep", "pp"))
    if "DP attention" in text:
        return Layout(dp=tp, ep=1)
    if "ep" in degrees and tp == 1 and "dp" not in degrees:
        dp = min(ep, count)  # two dies of a device count as one
        ep = min(ep, dp)
    if tp * dp * pp == 1 and count > 1 and "TP1" not in text:
        if not shape.moe or "EP" not in text.upper():
            raise ConfigError(f"layout {text!r} of {count} devices is not understood; write it like TP8 or DEP8.")
        dp = ep = count
    return Layout(tp=tp, dp=dp, ep=min(ep, tp * dp) if shape.moe else 1, pp=pp)


def _with_layout(setup: Setup, found: Layout) -> Setup:
    return replace(setup, layout=found)


def _replicas(text: str, base: Setup) -> tuple[Setup, Setup, tuple[int, int]] | None:
    """Of `P 1x(TP4 DP1 EP4) D 4x(TP8 DP1 EP8)`, `P: 2xTP8, D: DEP16`."""
    found = APART.fullmatch(text.strip())
    if found is None or not all(DEGREE.search(found[at]) for at in (2, 4)):
        return None
    widths = {at: max(int(n) for _, n in DEGREE.findall(found[at])) for at in (2, 4)}
    reads, decodes = (_with_layout(base, layout(found[at], widths[at], base.shape)) for at in (2, 4))
    return reads, decodes, (int(found[1] or 1), int(found[3] or 1))


def _concurrency(row: Mapping[str, str]) -> float:
    found = re.search(r"conc(?:urrency)?\s*(\d+)", row["batch"])
    if found is None:
        raise ConfigError(f"batch is {row['batch']!r}; a number of requests in flight is needed, such as `conc 64`.")
    return float(found[1])
