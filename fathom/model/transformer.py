"""The whole model: embedding, blocks, norm, head, MTP modules; and how weights begin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.config import ModelConfig
from fathom.errors import ConfigError
from fathom.layout import Shard
from fathom.model.answer import InTwoCalls
from fathom.model.block import Block
from fathom.model.cache import Batch, LatentCache
from fathom.model.comm import Alone, Comm
from fathom.model.layers import Linear, RMSNorm, Storage
from fathom.model.mtp import MTPModule
from fathom.model.rope import Rotary


class Decoder(nn.Module):
    """What the checkpoint calls `model.*`. MTP modules follow the main layers, as in the released files."""

    def __init__(self, config: ModelConfig, shard: Shard, comm: Comm, storage: Storage, mtp: bool) -> None:
        super().__init__()
        first, hidden = config.num_hidden_layers, config.hidden_size
        self.embed_tokens = nn.Embedding(len(shard.vocabulary), hidden, dtype=storage.dtype, device=storage.device)
        self.layers = nn.ModuleList(Block(config, i, shard, comm, storage) for i in range(first))
        if mtp:
            depths = range(first, first + config.num_nextn_predict_layers)
            self.layers.extend(MTPModule(config, i, shard, comm, storage) for i in depths)
        self.norm = RMSNorm(hidden, config.rms_norm_eps, storage)


class Transformer(InTwoCalls, nn.Module):
    """DeepSeek-V3 (and V2) as one module.

    Args:    shard: what this rank owns; everything if None. comm: whom to ask; nobody if None. mtp: build the MTP
             modules too. fp8: keep the weights that DeepSeek quantises as E4M3 blocks with scales. dtype: of weights.
             compute_dtype: of activations; the weights' if None.
    """

    def __init__(
        self, config: ModelConfig, *, shard: Shard | None = None, comm: Comm | None = None, mtp: bool = True,
        fp8: bool = False, dtype: torch.dtype = torch.float32, compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.shard, self.comm = config, shard or Shard.whole(config), comm or Alone()
        if self.shard.layout.pp > 1:
            raise ConfigError(f"pp is {self.shard.layout.pp}; a Transformer holds every layer, so it must be 1.")
        self.compute_dtype = compute_dtype or dtype
        self.rotary = Rotary(config)
        storage = Storage(dtype, device, fp8)
        self.model = Decoder(config, self.shard, self.comm, storage, mtp)
        self.lm_head = Linear(config.hidden_size, len(self.shard.vocabulary), storage.plain)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def mtp_modules(self) -> int:
        """How many MTP modules it was built with."""
        return len(self.model.layers) - self.config.num_hidden_layers

    @property
    def numerics(self) -> str:
        """Names how it computes: what another way has cached must not be mixed with it."""
        return f"torch {self.compute_dtype}"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed_tokens.weight.device

    def forward(self, tokens: Tensor, batch: Batch, cache: LatentCache | None = None) -> Tensor:
        """tokens int64 [tokens] -> hidden states after the last norm [tokens, hidden]."""
        x = self.embed(tokens)
        turn = self.rotary(batch.positions)
        for block in self.model.layers[: self.config.num_hidden_layers]:
            x = block(x, turn, batch, cache)
        return self.model.norm(x)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings in the dtype of activations [tokens, hidden]."""
        rows = self.shard.vocabulary
        here = (tokens >= rows.start) & (tokens < rows.stop)
        found = F.embedding((tokens - rows.start).where(here, 0), self.model.embed_tokens.weight)
        return self.comm.sum(found * here[:, None], "tp").to(self.compute_dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states after a norm [rows, hidden] -> float32 logits [rows, vocabulary]."""
        return self.comm.gather(self.lm_head(hidden), "tp").float()

    def predict_ahead(
        self, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache | None = None, depth: int = 0
    ) -> Tensor:
        """MTP: hidden states of `forward` and the token after each -> states whose logits predict the token after that.

        Args:    hidden: [tokens, hidden], after the last norm (depth 0) or what this returned (deeper).
                 next_tokens: int64 [tokens], the token at position i + 1 + depth.
        Returns: [tokens, hidden], after the module's own shared_head norm: feed `logits`.
        """
        module = self.model.layers[self.config.num_hidden_layers + depth]
        assert isinstance(module, MTPModule), "built with mtp=False, or depth is beyond num_nextn_predict_layers"
        return module.predict(hidden, self.embed(next_tokens), self.rotary(batch.positions), batch, cache)


@torch.no_grad()
def init_weights(model: Transformer, std: float = 0.006, seed: int = 0) -> Transformer:
    """Every matrix ~ N(0, std^2), norms 1, correction biases 0 (DeepSeek-V3, section 4.2: std 0.006).

    Deterministic in (seed, shapes), tensor by tensor in the order of `named_parameters`.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            drawn = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
            parameter.copy_(drawn)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()
    return model
