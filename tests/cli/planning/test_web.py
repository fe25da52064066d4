"""`fathom plan web` as a process: it says where it is, answers, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import httpx
import pytest

from fathom.cli import main
from tests.serve.conftest import ROOT
from tests.serve.test_launch import children, gone


def test_it_serves_the_page_and_ends_with_its_process() -> None:
    command = [sys.executable, "-m", "fathom", "plan", "web", "--port", "0", "--json", "--no-browser"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        assert url.endswith("/plan") and "Planner" in httpx.get(url).text
        answer = httpx.get(url.replace("/plan", "/v1/plan/fit?gpu=h100_sxm&gpus=8"), timeout=60).json()
        assert answer["state"] == "no"
        (desk,) = children(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        process.stdout.close()
    assert code == 0 and gone(desk)


def test_an_address_that_others_reach_wants_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "web", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "there is no API key" in capsys.readouterr().err
