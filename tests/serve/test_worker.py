"""The engine's process with a real model: right tokens, and never an orphan."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.serve import messages
from fathom.serve.worker import fingerprint
from tests.engine.checkpoint import save_tiny
from tests.serve.conftest import ROOT

PATIENCE_S = 60  # a busy machine imports torch slowly


class Worker:
    """A worker process, spoken to by hand."""

    def __init__(self, model: Path | str, **more: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fathom.serve.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), cwd=ROOT, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self.stream = self.socket.makefile("rb")
        self.send(messages.Hello(str(model), threads=1, max_sequences=2, num_pages=32, **more))

    def send(self, message: messages.Message) -> None:
        self.socket.sendall(messages.pack(message))

    def read(self) -> messages.ToFront:
        size = messages.frame_bytes(self.stream.read(messages.LENGTH_BYTES))
        return messages.unpack_to_front(self.stream.read(size))

    def tokens(self, request: Request) -> list[int]:
        self.send(messages.Add((request,)))
        ids: list[int] = []
        while True:
            message = self.read()
            if isinstance(message, messages.Refused):
                raise AssertionError(message.message)
            for output in message.outputs if isinstance(message, messages.Tokens) else ():
                ids += output.token_ids
                if output.finish_reason:
                    return ids

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture(scope="module")
def worker(tiny_model: Path) -> Iterator[Worker]:
    started = Worker(tiny_model)
    yield started
    started.close()
    started.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def facts(worker: Worker) -> messages.Ready:
    message = worker.read()
    assert isinstance(message, messages.Ready)
    return message


def test_it_tells_what_it_loaded(facts: messages.Ready) -> None:
    assert facts.context == 256 and facts.max_sequences == 2 and facts.parameters > 10_000
    assert facts.fingerprint.startswith("fp_") and "mla_decode" in facts.backends


def test_its_tokens_are_the_engines_own(worker: Worker, facts: messages.Ready, tiny_model: Path) -> None:
    from fathom.engine import LLM

    params = SamplingParams(max_tokens=12, temperature=0.0)
    prompt = tuple(range(3, 40))
    expected = LLM(tiny_model).generate([prompt], params)[0]
    assert worker.tokens(Request("greedy", prompt, params)) == list(expected.token_ids)


def test_guesses_ahead_change_no_token_and_are_counted(tmp_path: Path) -> None:
    from fathom.engine import LLM, EngineConfig

    save_tiny(tmp_path)
    params = SamplingParams(max_tokens=12, temperature=0.8, ignore_eos=True)
    expected = LLM(tmp_path, EngineConfig(spec="off", num_pages=32)).generate([[9, 8, 7]], params)[0]
    guessing = Worker(tmp_path, spec="2")
    assert isinstance(guessing.read(), messages.Ready)
    assert guessing.tokens(Request("a", (9, 8, 7), params)) == list(expected.token_ids)
    while not isinstance(message := guessing.read(), messages.Stats) or not message.drafted_by_depth:
        pass
    assert len(message.drafted_by_depth) == len(message.accepted_by_depth) == 2
    guessing.close()
    guessing.process.wait(PATIENCE_S)


def test_a_request_it_cannot_serve_is_refused_and_it_goes_on(worker: Worker, facts: messages.Ready) -> None:
    worker.send(messages.Add((Request("bad", (facts.vocab_size,), SamplingParams(max_tokens=1)),)))
    while not isinstance(message := worker.read(), messages.Refused):
        assert isinstance(message, messages.Stats)
    assert (message.request_id, message.fault, message.param) == ("bad", "request", "prompt")
    assert len(worker.tokens(Request("good", (5,), SamplingParams(max_tokens=2, ignore_eos=True)))) == 2


def test_a_bad_model_is_the_callers_fault(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    message = worker.read()
    assert isinstance(message, messages.Failed) and message.exit_code == 2 and "config.json" in message.message
    assert worker.process.wait(PATIENCE_S) == 2
    worker.close()


def test_a_spill_file_that_exists_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("precious")
    worker = Worker(tiny_model, spill_path=str(taken))
    message = worker.read()
    assert isinstance(message, messages.Failed) and message.exit_code == 2 and "which exists" in message.message
    assert taken.read_text() == "precious"
    worker.close()


@pytest.mark.parametrize("told", [True, False])
def test_its_successor_finds_what_it_computed(tiny_model: Path, tmp_path: Path, told: bool) -> None:
    """Told to leave, or killed once it was idle for a moment: its pages are on the disk."""
    asked = Request("r", tuple(range(3, 52)), SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True))
    first = Worker(tiny_model, cache_dir=str(tmp_path))
    assert isinstance(first.read(), messages.Ready)
    expected = first.tokens(asked)
    if told:
        first.send(messages.Shutdown())
    else:
        while not list(tmp_path.rglob("pages")) or list(tmp_path.rglob("index"))[0].stat().st_size < 3 * 72:
            time.sleep(0.01)
        first.process.kill()
    first.process.wait(PATIENCE_S)
    first.close()
    second = Worker(tiny_model, cache_dir=str(tmp_path))
    second.send(messages.Add((asked,)))
    outputs: list[Output] = []
    while not outputs or outputs[-1].finish_reason is None:
        message = second.read()
        outputs += message.outputs if isinstance(message, messages.Tokens) else ()
    assert [token for output in outputs for token in output.token_ids] == expected
    assert outputs[-1].disk_tokens == outputs[-1].cached_tokens == 48
    second.close()
    second.process.wait(PATIENCE_S)


def test_it_leaves_when_the_front_is_gone_even_while_loading(tiny_model: Path) -> None:
    worker = Worker(tiny_model)
    worker.close()
    worker.process.wait(PATIENCE_S)


def test_ctrl_c_is_the_fronts_business(worker: Worker, facts: messages.Ready) -> None:
    os.kill(worker.process.pid, signal.SIGINT)
    assert len(worker.tokens(Request("after", (5,), SamplingParams(max_tokens=3, ignore_eos=True)))) == 3


def test_shutdown_ends_it_in_order(worker: Worker, facts: messages.Ready) -> None:
    worker.send(messages.Shutdown())
    assert worker.process.wait(PATIENCE_S) == 0


def test_a_fingerprint_names_weights_and_arithmetic(tmp_path: Path) -> None:
    for name, content in (("model.safetensors", b"a"), ("config.json", b"{}"), ("tokenizer.json", b"{}")):
        (tmp_path / name).write_bytes(content)
    first = fingerprint(tmp_path, "float32")
    assert first == fingerprint(tmp_path, "float32") != fingerprint(tmp_path, "bfloat16")
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert fingerprint(tmp_path, "float32") != first
