"""`fathom serve`: what it refuses, what it prints, what it opens."""

from __future__ import annotations

import argparse
import json
import socket
import webbrowser
from pathlib import Path

import pytest

from fathom.cli import main, serve
from fathom.serve.launch import Started
from fathom.serve.messages import Ready

FACTS = Ready(vocab_size=9, context=2048, fingerprint="fp", load_s=0.1, max_sequences=4, parameters=11_000_000)
STARTED = Started("http://127.0.0.1:8000", "fathom-nano", 1.42, FACTS)


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["serve", *options, "--no-browser", "--json"]) == 2
    message: str = json.loads(capsys.readouterr().out)["error"]["message"]
    return message


def test_bad_input_is_refused_before_anything_is_loaded(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(tiny_model))
    assert "is not a directory" in refused(capsys, "--model", str(tmp_path / "none"))
    assert "config.json" in refused(capsys, "--model", str(tmp_path))
    assert "no API key" in refused(capsys, *model, "--host", "0.0.0.0")
    assert "port is 70000" in refused(capsys, *model, "--port", "70000")
    assert "cannot be read" in refused(capsys, *model, "--api-key-file", str(tmp_path / "none"))
    assert "spill-gb is -1" in refused(capsys, *model, "--spill-gb", "-1")
    assert "per_hour is -1" in refused(capsys, *model, "--price-per-hour", "-1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in refused(capsys, *model, "--port", str(taken.getsockname()[1]))


def test_a_deployment_says_what_options_may_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "deploy.toml"
    file.write_text('model = "nano"\n[[pool]]\nname = "p"\nreplicas = 2\n[engine]\nmax_sequences = 8\n')
    assert "says which model" in refused(capsys, str(file), "--replicas", "3")
    assert "workers elsewhere need --worker-secret" in refused(capsys, "--worker", "h:1")
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    config = serve.configured(parser.parse_args([str(file), "--num-pages", "9"]))
    assert (config.model, config.max_sequences, config.num_pages, config.pools[0].replicas) == ("nano", 8, 9, 2)
    assert serve.configured(parser.parse_args(["--replicas", "3"])).pools[0].replicas == 3
    file.write_text('model = "nano"\n[router]\npage_token = 8\n')
    assert "did you mean 'page_tokens'" in refused(capsys, str(file)).lower()


def test_faults_are_read_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nkind = "kill"\nop = "combin"\n')
    assert "op is 'combin'; it must be one of" in refused(capsys, "--faults", str(file))
    file.write_text('[[fault]]\nkind = "kill"\nop = "combine"\nstep = 9\n')
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    (fault,) = serve.configured(parser.parse_args(["--faults", str(file)])).faults
    assert (fault.kind, fault.op, fault.rank, fault.step) == ("kill", "combine", None, 9)


def test_keys_come_one_to_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n alpha \n\nbeta\n")
    assert serve.read_keys(file) == ["alpha", "beta"] and serve.read_keys(None) == []
    file.write_text("# none\n")
    assert "holds no key" in refused(capsys, "--api-key-file", str(file))


def test_the_block_names_the_page_the_api_and_the_model() -> None:
    text = serve.block(STARTED, keys=False)
    for part in ("Ready in 1.4 s", "http://127.0.0.1:8000/\n", "http://127.0.0.1:8000/v1", "fathom-nano", "11,000,000"):
        assert part in text
    assert "this machine only" in text and "asked for" in serve.block(STARTED, keys=True)


@pytest.mark.parametrize(("kind", "opens"), [(webbrowser.GenericBrowser, 0), (webbrowser.BackgroundBrowser, 1)])
def test_a_browser_for_terminals_is_left_alone(
    kind: type[webbrowser.GenericBrowser], opens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    browser = kind("nothing")
    monkeypatch.setattr(browser, "open", opened.append)
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    serve.open_page("http://127.0.0.1:1")
    assert len(opened) == opens


def test_no_browser_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise webbrowser.Error("no browser")

    monkeypatch.setattr(webbrowser, "get", none)
    serve.open_page("http://127.0.0.1:1")
