"""`fathom report` says where it wrote, and what it misses."""

import json
from pathlib import Path

from fathom.cli import main
from fathom.train.ledger import Ledger


def test_both_files_are_named_and_there(tmp_path, capsys) -> None:
    ledger = Ledger(tmp_path / "run")
    for step in (1, 2):
        ledger.append("step", step=step, loss=2.0 / step, tokens_per_s=9.0)
    ledger.close()
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        Path(found["html"]) == tmp_path / "out" / "report.html" and "Loss by stage" in Path(found["html"]).read_text()
    )
    assert Path(found["png"]).read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_not_there_exits_with_2(tmp_path, capsys) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "ledger.jsonl" in capsys.readouterr().err
