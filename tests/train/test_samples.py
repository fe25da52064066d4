"""Samples: written and read back, encoded as the chat is, and refused with the line that is wrong."""

import json

import pytest

from fathom.errors import InputError
from fathom.tokenizer import encode_chat
from fathom.train.data import DataConfig, train_tokenizer
from fathom.train.samples import Sample, read_samples, write_samples

ASKED = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "sort: 3 1 2"})
DIRECT = Sample(ASKED, None, "1 2 3", kind="plain", family="sorting", level=1, key="k")
THINKING = Sample(ASKED, "1 2\u2028 3\u0085", "1 2 3")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DataConfig(vocab_size=400, tokenizer_documents=200), seed=1)


def test_what_is_written_is_read(tmp_path) -> None:
    assert write_samples(tmp_path / "s.jsonl", [DIRECT, THINKING]) == 2
    assert list(read_samples(tmp_path / "s.jsonl")) == [DIRECT, THINKING]


def test_a_sample_is_a_chat_and_what_follows_it(tokenizer) -> None:
    prompt, answer = DIRECT.encode(tokenizer)
    assert prompt == encode_chat(tokenizer, ASKED, thinking=False)
    assert answer == [*tokenizer.encode("1 2 3"), tokenizer.eos_id]
    prompt, thoughtful = THINKING.encode(tokenizer)
    assert prompt == encode_chat(tokenizer, ASKED, thinking=True)
    assert thoughtful == [*tokenizer.encode(THINKING.thought), tokenizer.end_think_id, *answer]


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 2"), ("[]", "messages and reply"), ({"messages": [], "reply": "x"}, "messages is empty"),
     ({"messages": ["hi"], "reply": "x"}, "no object"), ({"messages": [{}]}, "messages and reply"),
     ({"messages": [{}], "reply": 3}, "reply must be"), ({"messages": [{}], "reply": "", "thought": 1}, "thought"),
     ({"messages": [{}], "reply": "", "mood": 1}, "unknown field 'mood'"), ({"messages": 3, "reply": ""}, "line 2")],
)  # fmt: skip
def test_a_line_that_is_no_sample_is_named(tmp_path, line, said) -> None:
    path = tmp_path / "s.jsonl"
    write_samples(path, [DIRECT])
    with path.open("a") as file:
        file.write(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(InputError, match=said) as caught:
        list(read_samples(path))
    assert "line 2" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.jsonl cannot be read"):
        list(read_samples(tmp_path / "absent.jsonl"))
