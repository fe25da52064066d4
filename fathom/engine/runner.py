"""Plan -> tensors -> model -> tokens. No policy lives here: the Plan has decided everything."""

from __future__ import annotations

from time import perf_counter

import torch

from fathom.batching.plan import Plan, Sampled
from fathom.engine.sampler import sample
from fathom.engine.speculative import Drafter
from fathom.model import Batch, LatentCache, Transformer


class Runner:
    """A model and its cache, executing Plans. `draft_s`: what guessing ahead took of the latest one [s]."""

    def __init__(self, model: Transformer, cache: LatentCache) -> None:
        self.model = model.eval()
        self.cache = cache
        self.device = cache.latent.device
        self.draft_s = 0.0
        self._drafter = Drafter(model, cache)

    @torch.inference_mode()
    def execute(self, plan: Plan) -> list[Sampled]:
        """Compute every row's tokens into the cache; answer the rows that sample, in order."""
        self.draft_s = 0.0
        if not plan.rows:
            return []
        rows = plan.rows
        tokens = torch.tensor([i for row in rows for i in row.token_ids], dtype=torch.int64, device=self.device)
        batch = Batch.paged(
            [len(row.token_ids) for row in rows],
            [row.start for row in rows],
            [row.pages for row in rows],
            self.cache.page_tokens,
            device=self.device,
        )
        hidden = self.model(tokens, batch, self.cache)
        sampled: list[Sampled] = []
        chosen_from: list[int] = []
        end = 0
        for row in rows:
            end += len(row.token_ids)
            if row.sampling is not None:
                chosen_from += range(end - 1 - row.drafts, end)
        if chosen_from:
            whole = len(chosen_from) == len(tokens)
            logits = self.model.logits(hidden if whole else hidden[torch.tensor(chosen_from, device=self.device)])
            sampled = sample(logits, plan.sampling_rows)
        if not plan.reads_ahead:
            return sampled
        started = perf_counter()
        sampled = self._drafter.extend(plan, hidden, batch, sampled)
        self.draft_s = perf_counter() - started
        return sampled
