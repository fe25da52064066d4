"""Plan -> tensors -> model -> tokens. No policy lives here: the Plan has decided everything."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import repeat
from time import perf_counter

import torch

from fathom.batching.plan import Plan, Sampled
from fathom.engine.sampler import sample
from fathom.engine.speculative import Drafter
from fathom.engine.spill import LostPages, SpillFile
from fathom.engine.timeline import Timeline
from fathom.errors import EngineError
from fathom.model import Batch, LatentCache, Model, PackedTransformer
from fathom.model.cache import int_tensor


class Runner:
    """A model and its cache, executing Plans.

    Of the latest one: restore_s is how long it read from the spill file, draft_s how long it guessed ahead [s].
    """

    def __init__(
        self, model: Model, cache: LatentCache, spill: SpillFile | None = None, timeline: Timeline | None = None
    ) -> None:
        self.model = model.eval()
        self.cache = cache
        self.spill, self.timeline = spill, timeline or Timeline()
        self.device = None if cache.latent.is_cpu else cache.latent.device
        self.restore_s = self.draft_s = 0.0
        self._drafter = Drafter(model, cache)

    @torch.inference_mode()
    def execute(self, plan: Plan, forwards: tuple[int, int] = (0, 0)) -> list[Sampled]:
        """Compute every row's tokens into the cache; answer the rows that sample, in order.

        Args:   forwards: make at least so many, of the main model and of MTP modules, as those do who share experts.
        Raises: LostPages: the spill file does not give back what the plan reads; nothing was computed.
        """
        self.draft_s = 0.0
        if plan.spills or plan.copies or plan.restores:
            self.timeline.begin("move pages")
        self._move(plan)
        sampled = self._compute(plan)
        made = plan.forwards
        if forwards > made:
            self._idle(made, forwards)
        return sampled

    def _idle(self, made: tuple[int, int], wanted: tuple[int, int]) -> None:
        """Take part in the forwards of others."""
        model = self.model
        assert isinstance(model, PackedTransformer), "only packed models have peers"
        if wanted[0] > made[0]:
            model.idle(self.cache)
        for depth in range(made[1], wanted[1] if model.shard.has_head else 0):
            model.idle(self.cache, min(depth, model.mtp_modules - 1))

    def _compute(self, plan: Plan) -> list[Sampled]:
        rows = [row for row in plan.rows if row.token_ids]  # siblings sample from the row before them
        if not rows:
            return []
        tokens, asked = array("q"), array("q")  # asked: the rows of hidden states that are turned into logits
        for row in plan.rows:
            tokens.extend(row.token_ids)
            if row.sampling is not None:
                asked.extend(range(len(tokens) - 1 - row.drafts, len(tokens)))
        batch = Batch.paged(
            [len(row.token_ids) for row in rows], [row.start for row in rows], [row.pages for row in rows],
            self.cache.page_tokens, device=self.device,
        )  # fmt: skip
        sampled: list[Sampled] = []
        self.timeline.begin("forward")
        if isinstance(self.model, PackedTransformer) and not self.model.shard.has_head:
            self.model(int_tensor(tokens, self.device), batch, self.cache)
            return []  # a later stage of the pipeline answers
        if asked:
            hidden, logits, best = self.model.answer(int_tensor(tokens, self.device), batch, self.cache, asked)
            self.timeline.begin("sample")
            sampled = sample(logits, plan.sampling_rows, best)
        else:
            hidden = self.model(int_tensor(tokens, self.device), batch, self.cache)
        if not plan.reads_ahead:
            return sampled
        started = perf_counter()
        self.timeline.begin("draft")
        sampled = self._drafter.extend(plan, hidden, batch, sampled)
        self.draft_s = perf_counter() - started
        return sampled

    def _move(self, plan: Plan) -> None:
        """Move whole pages as the plan says: out to the spill file, within the cache, back from the file."""
        self.restore_s = 0.0
        self.write_spills(plan.spills, plan.spill_names)
        if plan.copies:
            self.cache.copy_pages(plan.copies)
        if plan.restores:
            started = perf_counter()
            lost = [slot for slot, page in plan.restores if not self._spill_file.read(slot, page)]
            self.restore_s = perf_counter() - started
            if lost:
                raise LostPages(lost)

    def write_spills(self, spills: Sequence[tuple[int, int]], names: Sequence[bytes]) -> None:
        """Write pages to slots of the file: what a plan says, or what gives way between two plans."""
        for (page, slot), name in zip(spills, names or repeat(b""), strict=False):
            self._spill_file.write(page, slot, name)

    @property
    def _spill_file(self) -> SpillFile:
        if self.spill is None:
            raise EngineError("the plan moves pages to or from a spill file, and there is none; set spill_path.")
        return self.spill
