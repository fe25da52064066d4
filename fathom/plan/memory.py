"""What one device of a replica holds, by what it is for, and the tokens of cache that the rest has room for.

Weights are exact: for a DeepSeek model they are those of cost/layout.py, byte for byte. What an engine needs beside
them is a reserve (RUNTIME_BYTES, COLLECTIVES_BYTES), buffers of exchange, and the widest moment of a step. Counted is
the pipeline stage with least room for cache. Experts of a replica whose ep is less than its dp x tp are cut over the
ranks that share them, as vLLM, SGLang and TensorRT-LLM do; our own engine ("fathom") keeps them whole.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from fathom.layout import share
from fathom.plan.latency import CACHE_BYTES, LATENT_FP8, Setup
from fathom.plan.precision import Precision, precision
from fathom.plan.shape import Attention, Block, Matrix

#: Context, kernels and graphs of an engine, and buffers of collectives: `other_mem` and `nccl_mem` of the
#: systems/*.yaml of aiconfigurator 0.12. Cards of little memory keep less (its b60.yaml has 0.5 GB).
RUNTIME_BYTES, RUNTIME_LEAST, RUNTIME_SHARE = 3758096384, 600e6, 0.05
COLLECTIVES_BYTES = 411041792
KEEPING = ("trtllm",)  # engines that keep what has left a window, unless told (KvCacheConfig.max_attention_window)
USED_SHARE = 0.92  # of the memory: what engines allow themselves (vLLM 0.90 to 0.92, SGLang 0.88), fragments beside it
HOST_SHARE = 0.95  # of a host's memory; the rest is the operating system's
CHUNK_TOKENS = 8192  # of prompts, read in one step by a dp rank: the usual limit of vLLM and SGLang
SEQUENCES = 256  # whose logits are sampled at a time: max_num_seqs of vLLM
LOGIT_BYTES = 10  # of a logit: BF16, FP32, and its probability
BUFFER_TOKENS = 128  # of a rank, that exchanges of DeepEP's low-latency mode are sized for, unless it decodes more
STATE_BYTES = 4.0  # of a value of a linear attention's state: `mamba_ssm_dtype` of Qwen3.5's config.json
BLOCK = 128  # FP8 weights have an FP32 scale for each 128 x 128 (DeepSeek-V3, section 3.3.2)
WHOLE = ("q_a_proj", "kv_a_proj_with_mqa")  # that every tensor-parallel rank keeps, with routers and MTP joins
BY_COLUMNS = ("o_proj", "down_proj", "out_proj")
NOT_WEIGHTS = ("runtime", "exchange buffers", "activations", "logits")

Weights = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Memory:
    """Bytes on a device of the fullest stage.

    Fields: parts: what for; stored: weights by how they are stored. token_bytes, state_bytes: cache of a token and
            fixed state of a sequence. lanes: dp ranks, each with sequences of its own. stage: the one that is shown.
            beyond: (sequences of a lane, bytes that each further one needs beside its cache), the fewest first.
    """

    parts: dict[str, float]
    capacity: float
    token_bytes: float
    state_bytes: float
    lanes: int = 1
    stage: int = 0
    stored: dict[str, float] | None = None
    beyond: tuple[tuple[int, float], ...] = ()

    @property
    def used(self) -> float:
        """All but the cache [B]."""
        return sum(self.parts.values())

    @property
    def weights(self) -> float:
        """Weights alone, MTP module and copies of experts with them [B]."""
        return sum(size for part, size in self.parts.items() if part not in NOT_WEIGHTS)

    @property
    def free(self) -> float:
        """What is left for the cache [B]; 0: it does not fit."""
        return max(0.0, self.capacity - self.used)

    @property
    def room(self) -> float:
        """Tokens of cache of the whole replica; endless where a token leaves nothing behind."""
        if not self.token_bytes:
            return math.inf if self.free else 0.0
        return self.free / self.token_bytes * self.lanes

    def sequences(self, context: float) -> float:
        """Contexts of so many tokens that the replica has room for at a time."""
        each, free = context * self.token_bytes + self.state_bytes, self.free
        if not each:
            return math.inf if free else 0.0
        for count, more in self.beyond:
            if free / each > count:
                each, free = each + more, free + count * more
        return float(math.floor(free / each) * self.lanes)


def memory(setup: Setup, *, chunk: float = CHUNK_TOKENS) -> Memory:
    """What a device of `setup` holds. Args: chunk: tokens of prompts that a dp rank reads in one step."""
    found = [_stage(setup, stage, chunk) for stage in range(setup.layout.pp)]
    return min(found, key=lambda one: (one.room, one.capacity - one.used))


def weights(setup: Setup, stage: int = 0) -> Weights:
    """Bytes of weights by (part, how stored), on the device of a pipeline stage that holds most."""
    shape, found = setup.shape, defaultdict[tuple[str, str], float](float)
    for block, count in held(setup, stage):
        for key, size in _layer(setup, block).items():
            found[key] += size * count
    first, last = stage == 0, stage == setup.layout.pp - 1
    vocabulary = math.ceil(shape.vocab / setup.layout.tp) * shape.hidden * 2.0
    found["embedding and head", "bf16"] += vocabulary * ((first or (last and shape.tied)) + (last and not shape.tied))
    if last:
        found["norms", "bf16"] += shape.final_norm * 2.0
        if setup.mtp and shape.mtp:
            for (_, stored), size in _layer(setup, shape.mtp).items():
                found["MTP module", stored] += size * shape.mtp_depth
    return {key: size for key, size in found.items() if size}


def held(setup: Setup, stage: int) -> list[tuple[Block, int]]:
    """(block, how many of its layers) of a stage; early stages take one more where they do not divide evenly."""
    own = share(setup.shape.layers, setup.layout.pp, stage)
    counts: dict[int, int] = {}  # by identity: equal blocks are one object, and hashing them takes long
    blocks, start = {id(block): block for block in setup.shape.blocks}, 0
    for block in setup.shape.blocks:
        count = min(start + block.count, own.stop) - max(start, own.start)
        start += block.count
        if count > 0:
            counts[id(block)] = counts.get(id(block), 0) + count
    return [(blocks[key], count) for key, count in counts.items()]


def cache_bytes(setup: Setup, stage: int | None = None) -> tuple[float, float]:
    """(bytes that a token leaves on a device, bytes of a sequence's state of fixed size), MTP layers included.

    Tensor-parallel ranks each keep the whole latent; keys and values of heads are divided among them.

    Args: stage: of the pipeline; None: the one with least room.
    """
    if stage is None:
        stage = memory(setup).stage if setup.layout.pp > 1 else 0
    shape, token, state = setup.shape, 0.0, 0.0
    extra = stage == setup.layout.pp - 1 and setup.mtp and shape.mtp
    for block, count in [*held(setup, stage), *([(shape.mtp, shape.mtp_depth)] if extra and shape.mtp else [])]:
        one, values = block.attention, _cached(setup, block.attention) * count
        if one.window is None or setup.engine in KEEPING:
            token += values
        else:
            state += one.window * values
        state += one.state_values * STATE_BYTES * count / setup.layout.tp
    return token, state


def experts_held(setup: Setup) -> int:
    """Experts of a layer that a rank has a share of, copies included."""
    moe = setup.shape.moe
    return math.ceil((moe.experts + setup.redundant) / setup.layout.ep) if moe else 0


def exchange_bytes(setup: Setup) -> float:
    """Buffers for rows to experts on other ranks, for each token that a rank sends in a step.

    As DeepEP's get_low_latency_rdma_size_hint asks: in and out, two sets of them, a row for every expert.
    """
    moe, layout = setup.shape.moe, setup.layout
    if moe is None or layout.ep == 1 or layout.dp == 1 or setup.device.is_host:
        return 0.0
    row = setup.shape.hidden * (2.0 + 4.0 / BLOCK)
    return 2.0 * 2.0 * (moe.experts + setup.redundant) * row


def activation_bytes(setup: Setup, chunk: float) -> float:
    """What lives at once at the widest moment of a step that reads `chunk` tokens on each dp rank, in BF16 [B].

    The residual and its kin, and attention or the MLP, whichever is wider; each token's row goes to all its experts.
    """
    shape, tp = setup.shape, setup.layout.tp
    widest = max(max(_attention_values(b.attention, tp), _mlp_values(setup, b)) for b in shape.blocks)
    return chunk * 2.0 * (4.0 * shape.hidden + widest)


def _stage(setup: Setup, stage: int, chunk: float) -> Memory:
    parts, stored = defaultdict[str, float](float), defaultdict[str, float](float)
    for (part, how), size in weights(setup, stage).items():
        parts[part] += size
        stored[how] += size
    device = setup.device
    made = dict(parts)
    made["runtime"] = runtime_bytes(setup)
    made["exchange buffers"] = BUFFER_TOKENS * exchange_bytes(setup)
    made["activations"] = activation_bytes(setup, chunk)
    logits = setup.shape.vocab * float(LOGIT_BYTES) if stage == setup.layout.pp - 1 else 0.0
    made["logits"] = min(SEQUENCES, chunk) * logits
    tokens = (1 + setup.mtp) / (2 if setup.overlap else 1)  # of a sequence, in an exchange
    beyond = ((round(BUFFER_TOKENS / tokens), exchange_bytes(setup) * tokens), (SEQUENCES, logits))
    token, state = cache_bytes(setup, stage)
    capacity = device.driver_bytes * (HOST_SHARE if device.is_host else USED_SHARE)
    kept = {part: size for part, size in made.items() if size}
    further = tuple(sorted((count, size) for count, size in beyond if size))
    return Memory(kept, capacity, token, state, setup.layout.dp, stage, dict(stored), further)


def runtime_bytes(setup: Setup) -> float:
    """What an engine needs before it holds a weight [B]."""
    small = max(RUNTIME_LEAST, RUNTIME_SHARE * setup.device.driver_bytes)
    return min(float(RUNTIME_BYTES), small) + (COLLECTIVES_BYTES if setup.devices > 1 else 0.0)


def _layer(setup: Setup, block: Block) -> Weights:
    """One layer of a block."""
    kind, sparse = setup.weights, setup.shape.moe is not None
    rest = precision(kind.rest) if kind.experts_only and sparse else kind
    found: Weights = defaultdict(float)
    found["norms", "bf16"] += (block.norms - block.wide) * 2.0
    found["norms", "fp32"] += block.wide * 4.0
    if block.moe and block.moe.bias:
        found["norms", "bf16"] += experts_held(setup) * block.moe.bias * 2.0
    for m in block.matrices:
        how = kind if m.part == "experts" else rest
        stored = how if m.quantised else precision("bf16")
        found[m.part, stored.name] += _matrix(setup, m, block.attention, stored)
    return dict(found)


def _matrix(setup: Setup, m: Matrix, attention: Attention, stored: Precision) -> float:
    """A matrix on a rank: all copies that it holds, cut by rows or columns, with its scales."""
    ways, copies = _ways(setup, m, attention), experts_held(setup) if m.part == "experts" else m.copies
    by_columns = m.name in BY_COLUMNS
    rows = m.rows if by_columns else math.ceil(m.rows / ways)
    columns = math.ceil(m.columns / ways) if by_columns else m.columns
    if stored.name != "fp8":
        return copies * rows * columns * stored.weight_bytes
    scales = math.ceil(m.rows / BLOCK) * math.ceil(m.columns / BLOCK) / ways
    return copies * (rows * columns + 4.0 * math.ceil(scales))


def _ways(setup: Setup, m: Matrix, attention: Attention) -> int:
    """Ranks that a matrix is divided among."""
    layout = setup.layout
    if m.part == "experts":
        return 1 if setup.engine == "fathom" else layout.dp * layout.tp // layout.ep
    if m.part in ("router", "mtp_join") or m.name in WHOLE:
        return 1
    return min(layout.tp, attention.kv_heads) if m.name in ("k_proj", "v_proj") else layout.tp


def _cached(setup: Setup, one: Attention) -> float:
    """Bytes that a token leaves in one layer on a rank."""
    if one.kind == "latent":
        return one.cache_values * (LATENT_FP8 if setup.cache == "fp8" else 2.0)
    if one.kind == "linear":
        return 0.0
    return math.ceil(one.kv_heads / setup.layout.tp) * (one.qk_dim + one.v_dim) * CACHE_BYTES[setup.cache]


def _attention_values(one: Attention, tp: int) -> float:
    """Queries, keys, values and outputs of a token on a rank; keys and values of a latent are expanded."""
    heads = one.heads / tp
    keys = one.kv_heads / tp if one.kind != "latent" else heads
    return heads * (one.qk_dim + one.v_dim) + keys * (one.qk_dim + one.v_dim) + one.latent + one.rope


def _mlp_values(setup: Setup, block: Block) -> float:
    """Gate, up and their product of a token on a rank; for experts also its rows on the way in and out."""
    layout, shape, moe = setup.layout, setup.shape, block.moe
    dense = 3.0 * sum(m.rows for m in block.matrices if m.part == "dense_mlp" and m.name == "gate_proj") / layout.tp
    if moe is None:
        return dense
    narrow = 0.5 if setup.weights.peak in ("fp8", "fp4") else 1.0
    row = shape.hidden * (narrow + 1.0) + 3.0 * moe.width * layout.ep / (layout.dp * layout.tp)
    rows = moe.chosen / (setup.balanced if layout.dp > 1 else 1.0)
    return rows * row + 3.0 * moe.shared_width / layout.tp
