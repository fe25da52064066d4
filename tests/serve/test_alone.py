"""A server of pages takes its port first, and says where it is. What it serves: test_pages.py."""

from __future__ import annotations

import socket

import pytest

from fathom.errors import ConfigError
from fathom.serve.alone import Alone
from fathom.serve.guard import Access


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="in use"):
            Alone([], "127.0.0.1", taken.getsockname()[1], Access.for_host("127.0.0.1"))


def test_it_knows_its_address() -> None:
    alone = Alone([], "127.0.0.1", 0, Access.for_host("127.0.0.1"))
    assert alone.port > 0 and alone.url == f"http://127.0.0.1:{alone.port}"
    alone._socket.close()
