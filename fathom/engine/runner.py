"""Plan -> tensors -> model -> tokens. No policy lives here: the Plan has decided everything."""

from __future__ import annotations

from time import perf_counter

import torch

from fathom.batching.plan import Plan, Sampled
from fathom.engine.sampler import sample
from fathom.engine.spill import LostPages, SpillFile
from fathom.errors import EngineError
from fathom.model import Batch, LatentCache, Transformer


class Runner:
    """A model and its cache, executing Plans. `restore_s` is how long the latest one read from the spill file [s]."""

    def __init__(self, model: Transformer, cache: LatentCache, spill: SpillFile | None = None) -> None:
        self.model = model.eval()
        self.cache = cache
        self.spill = spill
        self.device = cache.latent.device
        self.restore_s = 0.0

    @torch.inference_mode()
    def execute(self, plan: Plan) -> list[Sampled]:
        """Compute every row's tokens into the cache; answer the rows that sample, in order.

        Raises: LostPages: the spill file does not give back what the plan reads; nothing was computed.
        """
        self._move(plan)
        rows = [row for row in plan.rows if row.token_ids]  # siblings sample from the row before them
        if not rows:
            return []
        lengths = [len(row.token_ids) for row in plan.rows]
        tokens = torch.tensor([i for row in plan.rows for i in row.token_ids], dtype=torch.int64, device=self.device)
        batch = Batch.paged(
            [length for length in lengths if length],
            [row.start for row in rows],
            [row.pages for row in rows],
            self.cache.page_tokens,
            device=self.device,
        )
        hidden = self.model(tokens, batch, self.cache)
        samplings = plan.samplings
        if not samplings:
            return []
        ends = torch.tensor(lengths).cumsum(0) - 1
        last = ends[[row.sampling is not None for row in plan.rows]].to(self.device)
        return sample(self.model.logits(hidden[last]), samplings)

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
