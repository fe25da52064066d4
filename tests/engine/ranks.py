"""Ranks that this process has started."""

import psutil


def ranks() -> list[psutil.Process]:
    """Those that still run; other tests have processes of their own, such as a server for a browser."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "fathom.engine.rank" in child.cmdline():
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found
