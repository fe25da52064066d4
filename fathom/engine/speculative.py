"""Guess the coming tokens with the model's own MTP module, so that one forward can check several at a time.

A guess is made by the rule that will judge it: same noise, temperature, penalties and forced tokens, on the module's
logits instead of the model's. It counts only if the model then chooses the very same token, so no guess can change a
text; a bad one costs time.

The module at position i sees the hidden state there and the token at i + 1, and predicts the token at i + 2. Its
latents lie in the same pages as the model's, in the cache's last layers.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from torch import Tensor

from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.engine.sampler import choose
from fathom.engine.spec_policy import MAX_DRAFTS
from fathom.model import Batch, LatentCache, Model
from fathom.model.cache import int_tensor, take_rows


class Drafter:
    """Makes the guesses that a Plan asks for.

    Where steps did not read ahead, and at the last token of a page taken over from another request (which went on with
    another token), the module's latents are missing or stale. Guesses may be worse for it; nothing else can be.
    """

    def __init__(self, model: Model, cache: LatentCache) -> None:
        self.model, self.cache = model, cache
        self.device = None if cache.latent.is_cpu else cache.latent.device

    def extend(self, plan: Plan, hidden: Tensor, batch: Batch, sampled: Sequence[Sampled]) -> list[Sampled]:
        """Read what the step made certain, then guess on: `sampled` with its drafts filled in.

        Args: hidden, batch: of the whole step, guesses that were wrong included.
        """
        counts, tokens = _certain(plan, sampled)
        if len(tokens) < plan.num_tokens:
            hidden = take_rows(hidden, _leading(plan, counts), self.device)
            rows = [row for row, count in zip(plan.rows, counts, strict=True) if count]
            batch = self._batch(rows, [row.start for row in rows], [count for count in counts if count])
        answered: list[_Chain] = []
        chains: list[_Chain] = []
        ends, end = array("q"), 0  # of each chain's row
        answers = iter(sampled)
        for row, certain in zip(plan.rows, counts, strict=True):
            end += certain
            if row.sampling is None:
                continue
            chain = _Chain(row, next(answers), row.start + certain)
            answered.append(chain)
            if row.propose:
                chains.append(chain)
                ends.append(end - 1)
        following = int_tensor(array("q", tokens), self.device)
        if chains:
            self._guess(chains, hidden, following, batch, ends)
        else:
            self.model.predict_ahead(hidden, following, batch, self.cache)
        return [chain.answer() for chain in answered]

    def _guess(self, chains: list[_Chain], hidden: Tensor, following: Tensor, batch: Batch, ends: array[int]) -> None:
        """Lengthen each chain to what its row asks for.

        A model with one module applies it to its own output again; the place in the text moves on with it.

        Args: hidden, following: of each token that became certain, and the token after it. ends: each chain's last.
        """
        wanted = {chain.row.propose for chain in chains}
        # where every sequence of the step guesses, as far as the others and greedily, one call does it
        if len(wanted) == 1 and wanted != {1} and len(chains) == len(batch.query_lengths) and all(map(_greedy, chains)):
            found = self.model.draft(hidden, following, batch, self.cache, ends, *wanted)
            if found is not None:
                for chain, guesses in zip(chains, zip(*found, strict=True), strict=True):
                    chain.guesses.extend(guesses)
                return
        for depth in range(MAX_DRAFTS):
            module = min(depth, self.model.mtp_modules - 1)
            hidden, logits, best = self.model.answer_ahead(hidden, following, batch, self.cache, module, ends)
            for chain, guess in zip(chains, choose(logits, [chain.state for chain in chains], best), strict=True):
                chain.add(guess)
            going = [at for at, chain in enumerate(chains) if len(chain.guesses) < chain.row.propose]
            if not going:
                return
            hidden = take_rows(hidden, array("q", [ends[at] for at in going]), self.device)
            chains, ends = [chains[at] for at in going], array("q", range(len(going)))
            following = int_tensor(array("q", [chain.guesses[-1] for chain in chains]), self.device)
            rows, starts = [chain.row for chain in chains], [chain.position for chain in chains]
            batch = self._batch(rows, starts, [1] * len(chains))

    def _batch(self, rows: Sequence[Row], starts: Sequence[int], counts: Sequence[int]) -> Batch:
        pages = [row.pages for row in rows]
        return Batch.paged(counts, starts, pages, self.cache.page_tokens, device=self.device)


class _Chain:
    """Guesses for one row.

    Fields: position: of the last token known, which the module has seen but not read. state: chooses the next guess.
    """

    def __init__(self, row: Row, answer: Sampled, position: int) -> None:
        assert row.sampling is not None, "only a row that samples can be guessed on"
        self.row, self.position = row, position
        self.guesses: list[int] = []
        self._answer = answer
        self.state: Sampling = row.sampling
        for token_id in answer.token_ids:
            self.state = self.state.after(token_id)

    def add(self, token_id: int) -> None:
        if self.guesses:
            self.position += 1
        self.guesses.append(token_id)
        self.state = self.state.after(token_id)

    def answer(self) -> Sampled:
        return Sampled(self._answer.token_ids, self._answer.logprobs, tuple(self.guesses))


def _greedy(chain: _Chain) -> bool:
    """Whether its guesses are where the logits are highest; all but those that a budget or a ban decides."""
    params = chain.state.params
    return params.temperature == 0.0 and not params.penalises_output


def _certain(plan: Plan, sampled: Sequence[Sampled]) -> tuple[list[int], list[int]]:
    """How many of each row's tokens are now certain, and the token after each of these, end to end."""
    answers = iter(sampled)
    counts: list[int] = []
    after: list[int] = []
    for row in plan.rows:
        count = len(row.token_ids) - row.drafts
        last = row.next_token_id
        if row.sampling is not None:
            chosen = next(answers).token_ids
            count += len(chosen) - 1
            last = chosen[-1]
        if not row.token_ids:  # a sibling: it has computed nothing
            counts.append(0)
            continue
        assert last is not None, "a plan that reads ahead names the token after each row"
        counts.append(count)
        after += (*row.token_ids[1:count], last)
    return counts, after


def _leading(plan: Plan, counts: Sequence[int]) -> array[int]:
    """Where the first `count` tokens of each row lie in the step."""
    found = array("q")
    begin = 0
    for row, count in zip(plan.rows, counts, strict=True):
        found.extend(range(begin, begin + count))
        begin += len(row.token_ids)
    return found
