"""Each check of `fathom doctor` sees the trouble it is there for."""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from fathom import ops
from fathom.cli import checks
from fathom.engine import slowdown
from fathom.engine.slowdown import Served, Slowdown
from fathom.errors import CheckpointError


def test_a_damaged_weight_file_is_found(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    assert checks.model(str(model), hashes=True).verdict == "ok"
    weights = next(model.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    check = checks.model(str(model), hashes=True)
    assert check.verdict == "fail" and "SHA-256" in check.detail and check.fix
    weights.unlink()
    assert "no .safetensors" in checks.model(str(model), hashes=False).detail


def test_sums_are_compared_too(tmp_path: Path) -> None:
    assert checks.verify(tmp_path) == "no hashes to compare with"
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'x').hexdigest()}  a\n")
    assert checks.verify(tmp_path) == "hashes as in SHA256SUMS"
    (tmp_path / "a").write_bytes(b"y")
    with pytest.raises(CheckpointError, match="does not have the SHA-256"):
        checks.verify(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        checks.verify(tmp_path)


def test_no_kernels_are_a_warning_that_says_why_and_how_much_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    with ops.use("reference"):
        check = checks.kernels(measured=False)
        assert (check.verdict, check.detail) == ("warn", "none native (reference was asked for): plain torch serves")
        pace = Slowdown("some processor", "avx9", kernels_s=0.5e-3, reference_s=10e-3)
        monkeypatch.setattr(slowdown, "served", lambda: Served("reference", "no cc", 12e-3, pace, here=False))
        assert "20x slower, measured on another (some processor)" in checks.kernels(measured=True).detail
    assert "install a C compiler" in check.fix


def test_a_port_in_use_is_a_warning_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check = checks.port("127.0.0.1", taken.getsockname()[1])
    assert check.verdict == "warn" and "--port" in check.fix


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    assert checks.disk().verdict == "warn"


def test_an_old_python_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.python().verdict == "ok"
    monkeypatch.setattr("sys.version_info", (3, 10, 0))
    assert checks.python().verdict == "fail"
