"""What a model gives the tokens that were sampled: exactly, by the kernels; and with a derivative, by torch.

A token's value in the loss is the kernels', its derivative torch's (objective.valued). The kernels give a token the
same bits decoded or read, so at the first mini-batch every ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fathom import ops
from fathom.checkpoint import pack_state, refill, unpacked
from fathom.config import ModelConfig
from fathom.model import Batch, PackedTransformer, Routing, Transformer
from fathom.model.mtp import MTPModule
from fathom.train.loss import predictions

READ_TOKENS = 4096  # of one forward
ROWS = 512  # logits at a time


class Text(Protocol):
    """A prompt and the answer that was sampled after it."""

    @property
    def prompt_ids(self) -> tuple[int, ...]: ...

    @property
    def token_ids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of an answer's tokens, float64: at temperature 1, as the engine reports them, and at that of
    sampling. experts: layer -> those that the kernels chose for each token of prompt and answer; {} without kernels."""

    plain: Tensor
    policy: Tensor
    experts: Mapping[int, Tensor]


class Twin:
    """A Transformer's weights as they were when they were taken, to generate and to score with.

    In native kernels where there are any; else in a second Transformer, on `device`, whose numbers depend a little on
    what is computed together. exact: which of the two. threads: of the kernels.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], threads: int, device: str = "cpu") -> None:
        self.config = config
        self._weights = pack_state(tensors, config) if device == "cpu" else {}
        packed = PackedTransformer.open(config, self._weights, threads) if device == "cpu" else None
        self.exact = packed is not None
        self.model: PackedTransformer | Transformer
        if packed is not None:
            self.model = packed
        else:
            self.model = Transformer(config, mtp=config.num_nextn_predict_layers > 0, device=device)
            self.model.eval().requires_grad_(False)
            self.take(tensors)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Other weights, under the names of a Transformer's state_dict."""
        if isinstance(self.model, Transformer):
            self.model.load_state_dict(dict(tensors))
        else:
            refill(self._weights, tensors, self.config)

    def tensors(self) -> dict[str, Tensor]:
        """The weights that it has, under the same names."""
        return self.model.state_dict() if isinstance(self.model, Transformer) else unpacked(self._weights, self.config)

    @torch.no_grad()
    def score(self, texts: Sequence[Text], temperature: float = 1.0) -> list[Scored]:
        """One Scored for each text, in order."""
        found: dict[int, Scored] = {}
        for members in batches(texts, READ_TOKENS):
            laid = lay([texts[i] for i in members], self.model.device)
            routing = Routing() if self.exact else None
            hidden = self.model(laid.tokens, Batch.packed(laid.lengths, device=self.model.device, routing=routing))
            plain, policy = self._logprobs(hidden, laid, temperature)
            experts = [{} for _ in members] if routing is None else _by_text(routing, laid.lengths)
            parts = zip(plain.split(laid.counts), policy.split(laid.counts), experts, strict=True)
            found |= {i: Scored(*part) for i, part in zip(members, parts, strict=True)}
        return [found[i] for i in range(len(texts))]

    def _logprobs(self, hidden: Tensor, laid: Laid, temperature: float) -> tuple[Tensor, Tensor]:
        plain = torch.empty(len(laid.rows), dtype=torch.float64)
        policy = plain if temperature == 1.0 else torch.empty_like(plain)
        for begin in range(0, len(laid.rows), ROWS):
            logits = self.model.logits(hidden[laid.rows[begin : begin + ROWS]])
            targets = laid.targets[begin : begin + ROWS].tolist()
            for i, (row, target) in enumerate(zip(logits, targets, strict=True), begin):
                wide = row.double()  # row by row, as engine/sampler.py does: a joint loop rounds the ends differently
                plain[i] = wide.log_softmax(0)[target]
                if policy is not plain:
                    policy[i] = (wide / temperature).log_softmax(0)[target]
        return plain, policy


def _by_text(routing: Routing, lengths: Sequence[int]) -> list[Mapping[int, Tensor]]:
    """What was recorded, apart for each text."""
    layers = {layer: ids.split(list(lengths)) for layer, ids in routing.ids.items()}
    return [{layer: parts[i] for layer, parts in layers.items()} for i in range(len(lengths))]


@dataclass(frozen=True)
class Laid:
    """Texts end to end. rows: those that predict a token of an answer, int64; targets: these tokens; answered: whether
    a token is one of them, bool [tokens]; counts: tokens of each answer."""

    tokens: Tensor
    lengths: list[int]
    rows: Tensor
    targets: Tensor
    answered: Tensor
    counts: list[int]


def lay(texts: Sequence[Text], device: torch.device | str | None = None) -> Laid:
    """One after the other."""
    ids: list[int] = []
    rows: list[int] = []
    for text in texts:
        begin = len(ids) + len(text.prompt_ids) - 1
        rows += range(begin, begin + len(text.token_ids))
        ids += [*text.prompt_ids, *text.token_ids]
    tokens, at = torch.tensor(ids), torch.tensor(rows)
    answered = torch.zeros(len(ids), dtype=torch.bool)
    answered[at + 1] = True
    lengths = [len(text.prompt_ids) + len(text.token_ids) for text in texts]
    counts = [len(text.token_ids) for text in texts]
    return Laid(tokens.to(device), lengths, at.to(device), tokens[at + 1].to(device), answered.to(device), counts)


def batches(texts: Sequence[Text], most_tokens: int) -> Iterator[list[int]]:
    """Their places, those of like length together, at most so many tokens at a time (one text may be longer)."""
    length = [len(text.prompt_ids) + len(text.token_ids) for text in texts]
    members: list[int] = []
    held = 0
    for i in sorted(range(len(texts)), key=length.__getitem__):
        if members and held + length[i] > most_tokens:
            yield members
            members, held = [], 0
        members.append(i)
        held += length[i]
    if members:
        yield members


def replayed(scored: Sequence[Scored], device: torch.device) -> Routing | None:
    """A Routing that makes a Transformer take the experts that the kernels chose; None if they chose none."""
    if not scored or not scored[0].experts:
        return None
    layers = scored[0].experts
    return Routing(replay={layer: torch.cat([s.experts[layer] for s in scored]).to(device) for layer in layers})


def computed(
    model: Transformer, laid: Laid, temperature: float, routing: Routing | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the answers' tokens at this temperature [tokens], with gradient; and the hidden states."""
    hidden = model(laid.tokens, Batch.packed(laid.lengths, device=laid.tokens.device, routing=routing))
    return -ops.cross_entropy(model.logits(hidden[laid.rows]) / temperature, laid.targets), hidden


def mtp_loss(model: Transformer, hidden: Tensor, laid: Laid) -> tuple[Tensor, int]:
    """Sum of what the MTP module loses on the answers [nats], and the tokens it predicts.

    Only the module's own weights get a gradient: trunk, embedding and head are for the policy to move.
    """
    module = model.model.layers[model.config.num_hidden_layers]
    assert isinstance(module, MTPModule), "the model has an MTP module"
    batch = Batch.packed(laid.lengths, device=laid.tokens.device)
    following = model.embed(laid.tokens.roll(-1)).detach()
    ahead = module.predict(hidden.detach(), following, model.rotary(batch.positions), batch, None)
    last = torch.tensor(laid.lengths, device=laid.tokens.device).cumsum(0) - 1
    rows, targets = predictions(laid.tokens, laid.answered, last, ahead=2)
    logits = ops.linear(ahead[rows], model.lm_head.weight.detach())
    return ops.cross_entropy(logits, targets).sum(), len(rows)
