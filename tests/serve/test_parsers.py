"""Thinking, answer and stop strings come out the same however the tokens arrive."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.serve.parsers import SegmentParser, StopFilter
from fathom.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["some plain words, and numbers 1 2 3"], 280, digits=1)
THINK, END = TOKENIZER.think_id, TOKENIZER.end_think_id
assert THINK is not None and END is not None and TOKENIZER.eos_id is not None
ids = TOKENIZER.encode


def parse(tokens: list[int], *, thinking: bool, split: bool = True, sizes: list[int] | None = None) -> tuple[str, str]:
    parser = SegmentParser(TOKENIZER, thinking=thinking, split=split)
    reasoning, content, at = "", "", 0
    for size in [*(sizes or []), len(tokens)]:
        piece = parser.push(tokens[at : at + size])
        reasoning, content, at = reasoning + piece.reasoning, content + piece.content, at + size
    rest = parser.flush()
    return reasoning + rest.reasoning, content + rest.content


def test_thinking_ends_at_its_token() -> None:
    assert parse([*ids("a thought"), END, *ids("answer")], thinking=True) == ("a thought", "answer")


def test_text_that_spells_the_marker_does_not_end_thinking() -> None:
    assert parse(ids("x </think> y"), thinking=True) == ("x </think> y", "")


def test_thinking_that_never_ends_is_all_thinking() -> None:
    assert parse(ids("on and on"), thinking=True) == ("on and on", "")


def test_a_model_may_open_thinking_by_itself() -> None:
    assert parse([THINK, *ids("hm"), END, *ids("so")], thinking=False) == ("hm", "so")


def test_blank_lines_after_thinking_are_dropped_but_not_elsewhere() -> None:
    assert parse([*ids("t\n"), END, *ids("\n\n"), *ids("a\n\nb")], thinking=True) == ("t\n", "a\n\nb")
    assert parse(ids("\n\na"), thinking=False) == ("", "\n\na")


def test_control_tokens_show_nowhere() -> None:
    assert parse([*ids("a"), TOKENIZER.special["<｜User｜>"], *ids("b"), TOKENIZER.eos_id], thinking=False) == (
        "",
        "ab",
    )


def test_without_splitting_everything_is_content() -> None:
    assert parse([*ids("a"), END, *ids("b")], thinking=True, split=False) == ("", "ab")


def test_tokens_are_counted_where_they_belong() -> None:
    parser = SegmentParser(TOKENIZER, thinking=True)
    thought, answer = ids("one two"), ids("three")
    piece = parser.push([*thought, END, *answer, TOKENIZER.eos_id])
    assert (parser.reasoning_tokens, parser.content_tokens) == (len(thought), len(answer) + 1)
    assert piece.reasoning_at == list(range(len(thought)))
    assert piece.content_at == list(range(len(thought) + 1, len(thought) + 1 + len(answer)))


@settings(max_examples=60)
@given(
    thought=st.text(max_size=20).filter(str.isprintable),
    answer=st.text(max_size=20).filter(str.isprintable),
    sizes=st.lists(st.integers(0, 4), max_size=60),
)
def test_any_chunking_gives_the_same_text(thought: str, answer: str, sizes: list[int]) -> None:
    tokens = [*ids(thought), END, *ids(answer)]
    assert parse(tokens, thinking=True, sizes=sizes) == (thought, answer)


@settings(max_examples=60)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40), st.booleans())
def test_random_tokens_never_give_half_a_character(tokens: list[int], thinking: bool) -> None:
    parser = SegmentParser(TOKENIZER, thinking=thinking)
    for token in tokens:
        piece = parser.push([token])
        (piece.reasoning + piece.content).encode()  # a lone surrogate would not encode


def filtered(text: str, stops: list[str], size: int) -> tuple[str, bool]:
    stop = StopFilter(stops)
    shown = "".join(stop.push(text[at : at + size]) for at in range(0, len(text), size))
    return shown + stop.flush(), stop.stopped


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), st.integers(1, 5))
def test_a_stop_string_cuts_at_its_first_place(text: str, stops: list[str], size: int) -> None:
    first = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    shown, stopped = filtered(text, stops, 1)
    assert stopped == bool(first)
    if not first:
        assert shown == text
    else:  # letter by letter, the stop that is complete first wins
        assert shown == text[: min(at for end, at in first if end == min(first)[0])]
    shown_in_chunks, stopped_in_chunks = filtered(text, stops, size)
    assert stopped_in_chunks == stopped and text.startswith(shown_in_chunks)


def test_no_part_of_a_stop_string_is_ever_shown() -> None:
    stop = StopFilter(["STOP", "TOUR"])
    assert [stop.push(c) for c in "aSTxSTOP!"] == ["a", "", "", "STx", "", "", "", "", ""]
    assert stop.stopped and stop.flush() == ""


def test_what_was_held_back_comes_out_at_the_end() -> None:
    stop = StopFilter(["STOP"])
    assert stop.push("fine ST") == "fine "
    assert stop.flush() == "ST"
