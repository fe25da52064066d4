"""The secret is a guarded file, and only who has it answers rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from fathom.errors import ConfigError
from fathom.serve.secret import is_proof, proof, read_secret, read_token

SECRET = "correct horse battery staple"


def test_a_guarded_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert read_secret(file) == SECRET.encode()


@pytest.mark.parametrize(("content", "mode", "match"), [(SECRET, 0o644, "mode 644"), ("short", 0o600, "5 characters")])
def test_a_file_that_keeps_no_secret_is_refused(tmp_path: Path, content: str, mode: int, match: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=match):
        read_secret(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_secret(tmp_path / "nowhere")


def test_only_the_secret_answers_and_only_this_challenge() -> None:
    answer = proof(b"one secret", b"challenge")
    assert is_proof(b"one secret", b"challenge", answer)
    assert not is_proof(b"another", b"challenge", answer)
    assert not is_proof(b"one secret", b"another challenge", answer)
    assert not is_proof(b"one secret", b"challenge", b"")


@pytest.mark.parametrize("content", ["two lines of it\nand more", "nicht für alle Ohren", "with a \0 inside it"])
def test_a_token_is_one_plain_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="one line of plain characters"):
        read_token(file)
    file.write_text(f"{SECRET}\n")
    assert read_token(file) == SECRET
