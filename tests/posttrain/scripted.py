"""A model that says what a script tells it to: the tokens are its, the sampling is not."""

from collections.abc import Callable, Sequence

from fathom.batching import SamplingParams
from fathom.batching.request import split_reasoning
from fathom.engine import Completion
from fathom.engine.llm import Timings, Usage
from fathom.tokenizer import Tokenizer


class Scripted:
    """`say(question, line, index)` -> (thought, reply) of the index-th request with this question, or (thought, None)
    where it never ends its thought; line: the system message, "" if there was none."""

    def __init__(self, tokenizer: Tokenizer, say: Callable[[str, str, int], tuple[str, str | None]]) -> None:
        self.tokenizer, self.say = tokenizer, say
        self.asked: list[tuple[str, str]] = []
        self.params: list[SamplingParams] = []

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        self.params += params
        return [self._one(list(prompt)) for prompt in prompts]

    def _one(self, prompt: list[int]) -> Completion:
        special = self.tokenizer.special
        user, assistant = prompt.index(special["<｜User｜>"]), prompt.index(special["<｜Assistant｜>"])
        assert prompt[-1] == special["<think>"], "rejection asks for a thought"
        line, question = self.tokenizer.decode(prompt[1:user]), self.tokenizer.decode(prompt[user + 1 : assistant])
        index = [asked for asked, _ in self.asked].count(question)
        self.asked.append((question, line))
        thought, reply = self.say(question, line, index)
        ids = self.tokenizer.encode(thought)
        if reply is not None:
            ids += [self.tokenizer.end_think_id, *self._with_controls(reply), self.tokenizer.eos_id]
        reasoning, content = split_reasoning(ids, True, self.tokenizer.think_id, self.tokenizer.end_think_id)
        return Completion(
            token_ids=tuple(ids),
            text=self.tokenizer.decode(content, skip_special=True),
            reasoning=self.tokenizer.decode(reasoning, skip_special=True),
            finish_reason="length" if reply is None else "stop",
            usage=Usage(len(prompt), len(ids), len(reasoning), 0),
            timings=Timings(0.0, 0.0, 0.0),
        )

    def _with_controls(self, text: str) -> list[int]:
        special = self.tokenizer.special
        return [
            i
            for piece in self.tokenizer.split(text)
            for i in ([special[piece]] if piece in special else self.tokenizer.encode(piece))
        ]
