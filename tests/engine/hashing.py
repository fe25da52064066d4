"""A model that is a hash: its state at a token is a digest of all tokens up to there, kept in the cache like a latent.

A wrong page, a stale slot, a wrong position or a wrong token changes everything after it, and nothing is ever rounded:
what it generates can be compared with `==`. Its MTP module is as right as one asks.
"""

from dataclasses import replace
from zlib import crc32

import torch
from torch import nn

from fathom.model.answer import InTwoCalls
from tests.engine.tiny import CONFIG

HASHED = replace(CONFIG, num_nextn_predict_layers=1, kv_lora_rank=2)
MAIN, AHEAD = 0, CONFIG.num_hidden_layers  # layers of the cache: the model's own state, the module's


def digest(state, token_id):
    return crc32(token_id.to_bytes(4, "little"), state)


class Hashing(InTwoCalls, nn.Module):
    """hidden: float64 [tokens, 2]: the state, and whether the module shall be wrong about it.

    Args: right: of 8 guesses, how many the module makes with the model's own logits; the others with their opposite.
    """

    def __init__(self, right=8, mtp_modules=1):
        super().__init__()
        self.config, self.compute_dtype = HASHED, torch.float64
        self.right, self.mtp_modules = right, mtp_modules
        self.device, self.numerics = torch.device("cpu"), "hashes"
        self.stale = self.read_ahead = 0  # latents the module found wrong, and all it looked at

    def forward(self, tokens, batch, cache):
        latents = self._layer(cache, MAIN)
        states = []
        for token_id, (position, slot, before) in zip(tokens.tolist(), self._places(batch, cache), strict=True):
            state, seen = latents[before].tolist() if position else (0, 0)
            assert seen == position, "the slot before holds another position"
            states.append(digest(int(state), token_id))
            latents[slot] = states[-1], position + 1
        return torch.tensor([[state, 0] for state in states], dtype=torch.float64)

    def logits(self, hidden):
        state = hidden[:, :1].long()
        spread = (state * 2_654_435_761 + torch.arange(self.config.vocab_size) * 40_503_017) % 1_000_003
        logits = (spread * spread % 999_983 % 4001).float() / 400
        return torch.where(hidden[:, 1:] > 0, -logits, logits)

    def predict_ahead(self, hidden, next_tokens, batch, cache, depth=0):
        latents = self._layer(cache, AHEAD + depth)
        states = []
        for state, token_id, (position, slot, before) in zip(
            hidden[:, 0].tolist(), next_tokens.tolist(), self._places(batch, cache), strict=True
        ):
            if position:
                self.read_ahead += 1
                self.stale += latents[before].tolist() != [state, position]
            states.append(digest(int(state), token_id))
            latents[slot] = states[-1], position + 1
        return torch.tensor([[state, state % 8 >= self.right] for state in states], dtype=torch.float64)

    def _layer(self, cache, layer):
        return cache.latent[layer].flatten(0, 1).numpy()

    def _places(self, batch, cache):
        """Of each token: its position, its slot, and the slot before it."""
        places = []
        table, size = batch.page_table.tolist(), cache.page_tokens
        for pages, count, start in zip(table, batch.query_lengths, batch.context_lengths, strict=True):
            slots = [pages[p // size] * size + p % size for p in range(start - 1, start + count)]
            places += zip(range(start, start + count), slots[1:], slots, strict=False)
        assert [place[:2] for place in places] == list(zip(batch.positions.tolist(), batch.slots.tolist(), strict=True))
        return places
