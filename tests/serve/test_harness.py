"""lm-evaluation-harness against our server, offline, as docs/evaluation.md has it: the score is our own, to the answer.

The harness is a program of its own, in an environment of its own (docs/decisions/0022): put its `lm_eval` on PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom import tasks
from fathom.engine import LLM
from fathom.serve.launch import ServeConfig, Server
from fathom.tasks import Problem
from tests.serve.conftest import Running

ROOT = Path(__file__).parents[2]
TASK = ROOT / "examples/harness"
PROBLEMS = [Problem(**json.loads(line)) for line in (TASK / "chain.jsonl").read_text(encoding="utf-8").splitlines()]


def test_its_problems_are_ours_unseen_and_answered_right() -> None:
    chain = tasks.FAMILIES["chain"]
    assert len(PROBLEMS) == 40
    for problem in PROBLEMS:
        assert tasks.split_of(problem.key) == "test"
        assert chain.check(problem, problem.answer) and chain.check(problem, problem.reply)


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running(Server(ServeConfig(model="nano", port=0, threads=1)))
    try:
        assert running.ready.wait(60) and running.started is not None, running.ended
        yield running
    finally:
        running.stop()


@pytest.mark.slow
def test_the_harness_finds_the_accuracy_that_we_find(server: Running, tmp_path: Path) -> None:
    harness = shutil.which("lm_eval")
    if harness is None:
        pytest.skip("LM-EVALUATION-HARNESS IS NOT TESTED HERE: no lm_eval on PATH (docs/evaluation.md installs it)")
    llm, chain = LLM("nano"), tasks.FAMILIES["chain"]
    ours = [chain.check(p, llm.chat([{"role": "user", "content": p.prompt}]).text) for p in PROBLEMS]
    assert 0 < sum(ours) < len(ours), "some right and some wrong, or agreement would say little"
    model_args = f"base_url={server.url}/v1/chat/completions,model=nano,num_concurrent=8,max_gen_toks=640"
    command = [
        harness, "run", "--model", "local-chat-completions", "--model_args", model_args, "--apply_chat_template",
        "--tasks", "fathom_chain", "--include_path", "examples/harness", "--output_path", str(tmp_path),
        "--log_samples",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    (samples,) = tmp_path.rglob("samples_fathom_chain_*.jsonl")
    found = {}
    for line in samples.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        found[sample["doc"]["key"]] = bool(sample["exact_match"])
    assert found == {problem.key: mark for problem, mark in zip(PROBLEMS, ours, strict=True)}
