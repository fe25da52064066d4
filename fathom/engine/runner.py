"""Plan -> tensors -> model -> tokens. No policy lives here: the Plan has decided everything."""

from __future__ import annotations

from time import perf_counter

import torch

from fathom.batching.plan import Plan, Sampled
from fathom.engine.sampler import sample
from fathom.engine.speculative import Drafter
from fathom.engine.spill import LostPages, SpillFile
from fathom.errors import EngineError
from fathom.model import Batch, LatentCache, Model


class Runner:
    """A model and its cache, executing Plans.

    Of the latest one: restore_s is how long it read from the spill file, draft_s how long it guessed ahead [s].
    """

    def __init__(self, model: Model, cache: LatentCache, spill: SpillFile | None = None) -> None:
        self.model = model.eval()
        self.cache = cache
        self.spill = spill
        self.device = cache.latent.device
        self.restore_s = self.draft_s = 0.0
        self._drafter = Drafter(model, cache)

    @torch.inference_mode()
    def execute(self, plan: Plan) -> list[Sampled]:
        """Compute every row's tokens into the cache; answer the rows that sample, in order.

        Raises: LostPages: the spill file does not give back what the plan reads; nothing was computed.
        """
        self.draft_s = 0.0
        self._move(plan)
        rows = [row for row in plan.rows if row.token_ids]  # siblings sample from the row before them
        if not rows:
            return []
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
        for row in plan.rows:
            end += len(row.token_ids)
            if row.sampling is not None:
                chosen_from += range(end - 1 - row.drafts, end)
        if chosen_from:
            whole = chosen_from == list(range(len(tokens)))
            logits = self.model.logits(hidden if whole else hidden[torch.tensor(chosen_from, device=self.device)])
            sampled = sample(logits, plan.sampling_rows)
        if not plan.reads_ahead:
            return sampled
        started = perf_counter()
        sampled = self._drafter.extend(plan, hidden, batch, sampled)
        self.draft_s = perf_counter() - started
        return sampled

    def _move(self, plan: Plan) -> None:
        """Move whole pages as the plan says: out to the spill file, within the cache, back from the file."""
        self.restore_s = 0.0
        for page, slot in plan.spills:
            self._spill_file.write(page, slot)
        if plan.copies:
            self.cache.copy_pages(plan.copies)
        if plan.restores:
            started = perf_counter()
            lost = [slot for slot, page in plan.restores if not self._spill_file.read(slot, page)]
            self.restore_s = perf_counter() - started
            if lost:
                raise LostPages(lost)

    @property
    def _spill_file(self) -> SpillFile:
        if self.spill is None:
            raise EngineError("the plan moves pages to or from a spill file, and there is none; set spill_path.")
        return self.spill
