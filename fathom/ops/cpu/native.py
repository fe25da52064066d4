"""Load the compiled kernels, check them against the definition, and run packed models with them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.config import ModelConfig
from fathom.layout import Shard
from fathom.layout.placement import Placement
from fathom.layout.rows import held
from fathom.ops.cpu import build, structs
from fathom.ops.cpu.peers import Exchange
from fathom.ops.packed import Best, Peers, Weights
from fathom.ops.packing import BLOCK_ROWS, KINDS, PackedMatrix, pack, pack_f8, unpack

TYPES = {torch.float32: 0, torch.bfloat16: 1}  # F32 and BF16 of kernels.h


class Library:
    """One variant of the kernels, and teams of threads to run it."""

    def __init__(self, path: Path, variant: str = "") -> None:
        """Raises Unavailable if the library does not fit this code or the variant cannot run here."""
        library = ctypes.CDLL(str(path))
        version = library.fathom_abi_version()
        if version != structs.ABI_VERSION:
            raise build.Unavailable(f"{path} speaks ABI {version}, this code {structs.ABI_VERSION}; delete it")
        library.fathom_kernels.restype = ctypes.POINTER(structs.Kernels)
        library.fathom_kernels.argtypes = (ctypes.c_char_p,)
        found = library.fathom_kernels(variant.encode())
        if not found:
            raise build.Unavailable(f"this processor or this build has no {variant} kernels")
        self.kernels = found.contents
        self.name: str = self.kernels.name.decode()
        library.team_open.restype = ctypes.c_void_p
        library.team_open.argtypes = (ctypes.c_int64,)
        library.team_close.restype = None
        library.team_close.argtypes = (ctypes.c_void_p,)
        library.room_bytes.restype, library.room_bytes.argtypes = ctypes.c_int64, (ctypes.c_int64, ctypes.c_int64)
        self.rooms = Rooms(library)
        self._library = library
        self.path = path

    def room_bytes(self, size: int, capacity: int) -> int:
        """Memory that `size` processes share to exchange messages, in pieces of `capacity` bytes (ops/shared.py)."""
        return int(self._library.room_bytes(size, capacity))

    def open_team(self, threads: int) -> int:
        """A team of `threads`, the caller among them; close it with `close_team`."""
        team = self._library.team_open(threads)
        if not team:
            raise MemoryError(f"no team of {threads} threads could be started")
        return int(team)

    def close_team(self, team: int) -> None:
        self._library.team_close(team)

    def product(self, matrix: PackedMatrix, x: Tensor, threads: int = 1) -> Tensor:
        """`x` [rows, columns] times a packed matrix, float32 [rows, matrix.rows]."""
        x = x.float().contiguous()
        out = torch.empty(x.shape[0], -(-matrix.rows // BLOCK_ROWS) * BLOCK_ROWS)
        team = self.open_team(threads)
        try:
            must(self.kernels.product(_matrix(matrix), x.data_ptr(), x.shape[0], out.data_ptr(), team))
        finally:
            self.close_team(team)
        return out[:, : matrix.rows]

    def prepare(self, matrix: PackedMatrix, x: Tensor, team: int) -> Callable[[], None]:
        """A product to run again and again, as in `product`, at the cost of one call; for timing."""
        out = torch.empty(x.shape[0], -(-matrix.rows // BLOCK_ROWS) * BLOCK_ROWS)
        described, product = _matrix(matrix), self.kernels.product

        def run() -> None:
            must(product(described, x.data_ptr(), x.shape[0], out.data_ptr(), team))

        return run


class Rooms:
    """The functions of shared.c, for ops/shared.py."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer = ctypes.c_void_p
        self.gather = _typed(library.room_gather, pointer, pointer, ctypes.c_int64, pointer)
        self.exchange = _typed(library.room_exchange, pointer, pointer, pointer, pointer, pointer)
        self.give_up = _typed(library.room_break, pointer)


def _typed(function: Any, *arguments: Any) -> Callable[..., int]:
    """A function of the library that answers with a number; structs are passed by reference."""
    function.restype, function.argtypes = ctypes.c_int, arguments
    return lambda room, *others: function(ctypes.byref(room), *others)


def load() -> Library:
    """The best variant this processor runs, once it agrees with the definition."""
    library = Library(build.ensure())
    check(library)
    return library


def check(library: Library) -> None:
    """Compare a product of every kind with torch's; raises Unavailable naming the first that differs."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 200, generator=draw)
    x = torch.randn(11, 200, generator=draw)
    f8 = pack_f8(weight.to(torch.float8_e4m3fn), torch.rand(1, 2, generator=draw) + 0.5)
    for packed in (pack(weight, "f32"), pack(weight, "bf16"), f8, pack(weight, "i8"), pack(weight, "i4")):
        expected = rounded(x, packed) @ unpack(packed).T
        if not torch.allclose(library.product(packed, x), expected, rtol=1e-4, atol=1e-4):
            raise build.Unavailable(f"{packed.kind} products differ: the kernels were compiled wrongly")


def rounded(x: Tensor, matrix: PackedMatrix) -> Tensor:
    """Activations as the kernels see them: rounded to 8 bits per group where the weights are quantised."""
    if matrix.kind not in ("i8", "i4"):
        return x
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % matrix.group)).unflatten(1, (-1, matrix.group))
    peak = padded.abs().amax(-1, keepdim=True)
    levels = (padded * (127.0 / peak).where(peak > 0, 0.0)).round()
    return (levels * (peak / 127.0)).flatten(1)[:, : x.shape[1]]


def must(code: int) -> None:
    if code == 1:
        raise MemoryError("the kernels got no memory for their working space")
    assert code != 3, "what peers answered is raised before"
    if code:
        raise IndexError("a token id, position or page lies outside the model or its cache")


class NativeModel:
    """fathom.ops.packed.PackedModel by the kernels of one library."""

    def __init__(
        self, config: ModelConfig, weights: Weights, turn: tuple[Tensor, Tensor], threads: int, library: Library,
        shard: Shard | None = None, peers: Peers | None = None, placements: Mapping[int, Placement] | None = None,
    ) -> None:  # fmt: skip
        """turn: cosines and sines, float32 [positions, rope / 2]."""
        self.library, self.threads, self.name = library, threads, library.name
        self.shard = shard or Shard.whole(config)
        self._placements = dict(placements or {})
        self._experts: dict[int, dict[int, tuple[PackedMatrix | Tensor, ...]]] = {}  # by layer, those held
        self._exchange = None if peers is None else Exchange(peers, self.shard)
        self._held: list[object] = [_fixed(weights), turn]  # what the structs point to
        self._model = self._describe(config, weights, turn)
        self._hidden, self._padded = config.hidden_size, -(-config.vocab_size // BLOCK_ROWS) * BLOCK_ROWS
        self._vocabulary = config.vocab_size
        self._space = torch.empty(0, dtype=torch.uint8)
        self._tokens = self._arrivals = -1  # even no tokens need some space
        self._team = library.open_team(threads)

    def __del__(self) -> None:
        team = getattr(self, "_team", 0)
        if team:
            self.library.close_team(team)

    @property
    def peers_s(self) -> float:
        """Time spent so far in which peers were asked [s]."""
        return 0.0 if self._exchange is None else self._exchange.spent_s

    def space_bytes(self, tokens: int, arrivals: int = 0) -> int:
        return int(self.library.kernels.space(self._model, tokens, arrivals, self.threads))

    def forward(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        *, module: int = -1, before: Tensor | None = None, chosen: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        hidden = torch.empty(positions.shape[0], self._hidden)
        call = structs.Call(
            module=module, ids=ids.data_ptr(), hidden=hidden.data_ptr(), before=_address(before),
            chosen=_address(chosen),
        )  # fmt: skip
        self._run(call, _batch(positions, lengths, table), _cache(latent, rope))
        return hidden

    def answer(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        rows: Tensor, *, module: int = -1, before: Tensor | None = None, chosen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Best]:  # fmt: skip
        asked = rows.shape[0]
        logits, hidden = torch.empty(asked, self._padded), torch.empty(positions.shape[0], self._hidden)
        best, highest = (ctypes.c_int64 * asked)(), (ctypes.c_float * asked)()
        call = structs.Call(
            module=module, ids=ids.data_ptr(), asked=asked, rows=rows.data_ptr(), logits=logits.data_ptr(),
            best=ctypes.addressof(best), highest=ctypes.addressof(highest), hidden=hidden.data_ptr(),
            before=_address(before), chosen=_address(chosen),
        )  # fmt: skip
        self._run(call, _batch(positions, lengths, table), _cache(latent, rope))
        return hidden, logits[:, : self._vocabulary], (best[:], highest[:])

    def draft(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        rows: Tensor, *, before: Tensor, then: Tensor,
    ) -> list[list[int]]:  # fmt: skip
        assert self._exchange is None, "each forward of a part is announced to its peers"
        (rounds, asked), tokens = then.shape, positions.shape[0]
        logits, each = torch.empty(asked, self._padded), (ctypes.c_int64 * asked)(*range(asked))
        hidden, states = torch.empty(tokens, self._hidden), torch.empty(rounds + 1, asked, self._hidden)
        best, highest = (ctypes.c_int64 * (asked * (1 + rounds)))(), (ctypes.c_float * (asked * (1 + rounds)))()
        places = ctypes.addressof(best), ctypes.addressof(highest)
        what = structs.Call(
            module=0, ids=ids.data_ptr(), asked=asked, rows=rows.data_ptr(), logits=logits.data_ptr(), best=places[0],
            highest=places[1], hidden=hidden.data_ptr(), before=before.data_ptr(),
        )  # fmt: skip
        again = structs.Call(
            asked=asked, rows=ctypes.addressof(each), logits=logits.data_ptr(), best=places[0] + 8 * asked,
            highest=places[1] + 4 * asked, hidden=states.data_ptr(),
        )  # fmt: skip
        self._reserve(max(tokens, asked))
        must(
            self.library.kernels.draft(
                self._model, _cache(latent, rope), _batch(positions, lengths, table), what,
                _batch(then, (1,) * asked, table), again, rounds, self._space.data_ptr(), self._team,
            )
        )  # fmt: skip
        return [best[at : at + asked] for at in range(0, len(best), asked)]

    def _run(self, call: structs.Call, batch: structs.Batch, cache: structs.Cache) -> None:
        if self._exchange is not None:
            call.arrivals = self._exchange.begin(batch.tokens)
        self._reserve(max(batch.tokens, call.asked), call.arrivals)
        code = self.library.kernels.forward(self._model, cache, batch, call, self._space.data_ptr(), self._team)
        if self._exchange is not None and self._exchange.error is not None:
            error, self._exchange.error = self._exchange.error, None
            raise error
        must(code)

    def logits(self, hidden: Tensor) -> Tensor:
        assert self.shard.tp_size == 1, "a part of the head has a part of the logits; use `answer`"
        hidden = hidden.contiguous()
        rows = hidden.shape[0]
        self._reserve(rows)
        out = torch.empty(rows, self._padded)
        kernels = self.library.kernels
        must(kernels.logits(self._model, hidden.data_ptr(), rows, out.data_ptr(), self._space.data_ptr(), self._team))
        return out[:, : self._vocabulary]

    def _reserve(self, tokens: int, arrivals: int = 0) -> None:
        if tokens > self._tokens or arrivals > self._arrivals:
            self._tokens, self._arrivals = max(tokens, self._tokens), max(arrivals, self._arrivals)
            self._space = torch.empty(self.space_bytes(self._tokens, self._arrivals) + 64, dtype=torch.uint8)

    # -- the model as structs --------------------------------------------------------------------------------------

    def _describe(self, config: ModelConfig, weights: Weights, turn: tuple[Tensor, Tensor]) -> structs.Model:
        shard = self.shard
        modules = [i for i in shard.mtp_layers if f"model.layers.{i}.eh_proj.weight" in weights]
        grouped = config.topk_method != "greedy"
        embedding = weights.get("model.embed_tokens.weight", torch.empty(0))
        assert isinstance(embedding, Tensor), "the embedding is a plain table"
        self._here = [*shard.layers, *modules]
        layers = (structs.Layer * len(self._here))(*(self._layer(config, i, weights) for i in self._here))
        sizes = {len(held(shard, i, self._placements)) for i in self._here if config.is_moe(i)}
        assert len(sizes) <= 1, "every layer has as many slots"
        shared = config.moe_intermediate_size * (config.n_shared_experts or 0)
        dense = any(not config.is_moe(i) for i in range(config.num_hidden_layers))
        return structs.Model(
            hidden=config.hidden_size, heads=len(shard.heads), all_heads=config.num_attention_heads,
            nope=config.qk_nope_head_dim, rope=config.qk_rope_head_dim, value=config.v_head_dim,
            latent=config.kv_lora_rank, q_rank=config.q_lora_rank or 0, vocabulary=config.vocab_size,
            layers=len(shard.layers), modules=len(modules), begins=shard.pp_rank == 0, ends=shard.has_head,
            experts=config.n_routed_experts, held=max(sizes, default=0), top_k=config.num_experts_per_tok,
            groups=config.n_group if grouped else 1, top_groups=config.topk_group if grouped else 1,
            best_two=config.topk_method == "noaux_tc", softmax=config.scoring_func == "softmax",
            normalise=config.norm_topk_prob and config.num_experts_per_tok > 1,
            inner=max(shared, config.intermediate_size if dense else 0), expert_inner=config.moe_intermediate_size,
            table_positions=turn[0].shape[0], embedding_kind=TYPES[embedding.dtype],
            scaling=config.routed_scaling_factor, eps=config.rms_norm_eps, scale=config.softmax_scale,
            layer=layers, embedding=embedding.data_ptr(), cosines=turn[0].data_ptr(), sines=turn[1].data_ptr(),
            last_norm=self._vector(weights, "model.norm.weight") if shard.has_head else None,
            head=_found(weights, "lm_head.weight") if shard.has_head else structs.Matrix(),
            peers=None if self._exchange is None else ctypes.pointer(self._exchange.struct),
        )  # fmt: skip

    def _layer(self, config: ModelConfig, index: int, weights: Weights) -> structs.Layer:
        prefix = f"model.layers.{index}."
        attention = prefix + "self_attn."
        query = "q_b_proj" if config.q_lora_rank else "q_proj"
        made = structs.Layer(
            input_norm=self._vector(weights, prefix + "input_layernorm.weight"),
            post_norm=self._vector(weights, prefix + "post_attention_layernorm.weight"),
            kv_norm=self._vector(weights, attention + "kv_a_layernorm.weight"),
            kv_a=_found(weights, attention + "kv_a_proj_with_mqa.weight"),
            o=_found(weights, attention + "o_proj.weight"),
            q_b=self._heads(config, weights, attention + query),
            k_b=self._heads(config, weights, attention + "k_b_proj"),
            v_b=self._heads(config, weights, attention + "v_b_proj"),
        )
        if config.q_lora_rank:
            made.q_norm = self._vector(weights, attention + "q_a_layernorm.weight")
            made.q_a = _found(weights, attention + "q_a_proj.weight")
        if config.is_moe(index):
            self._add_experts(made, config, index, weights)
        else:
            made.shared = _mlp(weights, prefix + "mlp.")
        if index >= config.num_hidden_layers:
            made.embedding_norm = self._vector(weights, prefix + "enorm.weight")
            made.hidden_norm = self._vector(weights, prefix + "hnorm.weight")
            made.last_norm = self._vector(weights, prefix + "shared_head.norm.weight")
            made.join = _found(weights, prefix + "eh_proj.weight")
        return made

    def _add_experts(self, made: structs.Layer, config: ModelConfig, index: int, weights: Weights) -> None:
        prefix = f"model.layers.{index}.mlp."
        made.router = _found(weights, prefix + "gate.weight")
        if config.topk_method == "noaux_tc":
            made.bias = self._vector(weights, prefix + "gate.e_score_correction_bias")
        if config.n_shared_experts:
            made.shared = _mlp(weights, prefix + "shared_experts.")
        made.experts = self._slots(index, weights)

    def _slots(self, index: int, weights: Weights) -> ctypes.Array[structs.Mlp]:
        """The experts of a layer, slot by slot; those that are no longer held are forgotten."""
        kept = self._experts.get(index, {})
        experts = held(self.shard, index, self._placements)
        names = {expert: f"model.layers.{index}.mlp.experts.{expert}." for expert in experts}
        parts = ("gate", "up", "down")
        self._experts[index] = {
            expert: kept.get(expert) or tuple(weights[f"{name}{part}_proj.weight"] for part in parts)
            for expert, name in names.items()
        }
        return (structs.Mlp * len(experts))(
            *(structs.Mlp(*map(_packed, self._experts[index][expert])) for expert in experts)
        )

    def place(self, layer: int, placement: Placement, weights: Weights) -> None:
        self._placements[layer] = placement
        self._model.layer[self._here.index(layer)].experts = self._slots(layer, weights)
        if self._exchange is not None:
            self._exchange.peers.place(layer, placement)

    def _heads(self, config: ModelConfig, weights: Weights, name: str) -> ctypes.Array[structs.Matrix]:
        stack = weights[name + ".weight"]
        assert isinstance(stack, PackedMatrix), f"{name} is packed"
        heads = len(self.shard.heads)
        size = stack.data.shape[0] // heads
        parts = [stack.blocks(h * size, (h + 1) * size) for h in range(heads)]
        return (structs.Matrix * len(parts))(*map(_matrix, parts))

    def _vector(self, weights: Weights, name: str) -> int:
        value = weights[name]
        assert isinstance(value, Tensor), f"{name} is a plain vector"
        value = value.float().contiguous()
        self._held.append(value)
        return value.data_ptr()


def _found(weights: Weights, name: str) -> structs.Matrix:
    matrix = weights[name]
    assert isinstance(matrix, PackedMatrix), f"{name} is packed"
    return _matrix(matrix)


def _packed(matrix: PackedMatrix | Tensor) -> structs.Matrix:
    assert isinstance(matrix, PackedMatrix), "matrices are packed"
    return _matrix(matrix)


def _matrix(matrix: PackedMatrix) -> structs.Matrix:
    assert matrix.data.is_contiguous() and (matrix.scale is None or matrix.scale.is_contiguous()), "packed, not strided"
    scale = None if matrix.scale is None else matrix.scale.data_ptr()
    return structs.Matrix(
        KINDS.index(matrix.kind), matrix.rows, matrix.columns, matrix.group, matrix.data.data_ptr(), scale
    )


def _fixed(weights: Weights) -> dict[str, PackedMatrix | Tensor]:
    """All but routed experts, which may come and go."""
    return {name: weight for name, weight in weights.items() if ".mlp.experts." not in name}


def _mlp(weights: Weights, prefix: str) -> structs.Mlp:
    return structs.Mlp(*(_found(weights, f"{prefix}{part}_proj.weight") for part in ("gate", "up", "down")))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _batch(positions: Tensor, lengths: Sequence[int], table: Tensor) -> structs.Batch:
    each = (ctypes.c_int64 * len(lengths))(*lengths)
    made = structs.Batch(
        positions.shape[-1], len(lengths), table.shape[1], positions.data_ptr(), ctypes.addressof(each),
        table.data_ptr(),
    )  # fmt: skip
    made.held = each  # it has only the address
    return made


def _cache(latent: Tensor, rope: Tensor) -> structs.Cache:
    return structs.Cache(latent.data_ptr(), rope.data_ptr(), TYPES[latent.dtype], *latent.shape[1:3])
