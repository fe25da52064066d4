"""The room's public names, and that some of them need no torch."""

import subprocess
import sys

import fathom.think


def test_every_name_is_there() -> None:
    assert all(getattr(fathom.think, name).__name__ == name for name in fathom.think.__all__ if name != "normalised")


def test_votes_and_accounts_need_no_torch() -> None:
    code = "import sys; from fathom.think import Account, Vote; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
