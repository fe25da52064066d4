"""The backend's room: nothing is compiled or loaded by importing it."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_room_loads_no_library() -> None:
    code = "import fathom.ops.cpu, sys; print('fathom.ops.cpu.native' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
