"""From what is asked for to replicas: cores divided, spill files apart, addresses and settings checked."""

from __future__ import annotations

import os

import pytest

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.deploy import Pool
from fathom.serve.deployment import build_fleet, fitted, read_engine, shared, transfer
from fathom.serve.messages import Hello
from fathom.serve.transport import Remote, Spawned


def test_cores_are_divided_among_replicas() -> None:
    assert shared(Hello("m"), 1).threads is None and shared(Hello("m", threads=6), 1).threads == 6
    assert shared(Hello("m", threads=6), 3).threads == 2 and shared(Hello("m", threads=2), 3).threads == 1
    assert shared(Hello("m"), 2).threads == max(1, (os.cpu_count() or 1) // 2)


def test_each_replica_has_its_layout_and_a_spill_file_of_its_own() -> None:
    hello = Hello("m", spill_path="pages")
    assert fitted(hello, Pool(), "main-0") == hello
    assert fitted(hello, Pool(replicas=2), "main-1").spill_path == "pages.main-1"
    assert fitted(Hello("m"), Pool(layout=Layout(dp=2, ep=2)), "main-0").layout == (1, 2, 1, 2)


def test_a_pool_has_engine_settings_of_its_own() -> None:
    hello = Hello("m", max_sequences=4, spec="off")
    own = fitted(hello, Pool("p", engine={"max_sequences": 8, "max_stretch": 3.5, "page_tokens": 64}), "p-0")
    assert (own.max_sequences, own.max_stretch, own.page_tokens, own.spec) == (8, 3.5, 64, "off")
    with pytest.raises(ConfigError, match="pool p: engine: .*max_sequence"):
        fitted(hello, Pool("p", engine={"max_sequence": 8}), "p-0")


def test_replicas_here_and_elsewhere_make_one_fleet() -> None:
    fleet = build_fleet(Hello("m", threads=4), (Pool(replicas=2),), workers=["h:7000", "[::1]:7001"], secret=b"s")
    ways = [replica.client.via for replica in fleet.replicas]
    assert [type(way) for way in ways] == [Spawned, Spawned, Remote, Remote]
    assert [(way.host, way.port) for way in ways[2:]] == [("h", 7000), ("::1", 7001)]
    assert [replica.client.hello.threads for replica in fleet.replicas] == [2, 2, 4, 4]
    assert [replica.name for replica in fleet.replicas] == ["main-0", "main-1", "remote-0", "remote-1"]
    assert [replica.client.name for replica in fleet.replicas] == [replica.name for replica in fleet.replicas]
    with pytest.raises(ConfigError, match="has 2 workers"):
        fleet.scale("remote", 3)


def test_who_prefills_lends_pages_where_the_others_reach_it() -> None:
    assert transfer(Pool(), 0) is None and transfer(Pool("p", role="prefill"), 7) == "127.0.0.1:0"
    there = Pool("p", role="prefill", replicas=2, workers=("h:7000", "[::1]:7001"))
    assert [transfer(there, number) for number in range(2)] == ["h:0", "[::1]:0"]
    named = Pool("p", role="prefill", transfer=("10.0.0.7:900",))
    assert transfer(named, 0) == "10.0.0.7:900"
    with pytest.raises(ConfigError, match="more replicas need more"):
        transfer(named, 1)
    far = Pool("d", role="decode", replicas=1, workers=("h:7000",))
    with pytest.raises(ConfigError, match="pool p lends pages to pool d on other machines"):
        build_fleet(Hello("m"), (Pool("p", role="prefill"), far), secret=b"s")
    fleet = build_fleet(Hello("m", threads=4), (named, far), secret=b"s")
    assert [(type(r.client.via), r.client.hello.transfer) for r in fleet.replicas] == [
        (Spawned, "10.0.0.7:900"), (Remote, None),
    ]  # fmt: skip
    assert [r.client.ledger.prefills for r in fleet.replicas] == [True, False]


@pytest.mark.parametrize("worker", ["h", ":1", "h:", "h:x", "h:0", "h:70000"])
def test_an_address_that_is_none_is_refused(worker: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        build_fleet(Hello("m"), (), workers=[worker])


def test_the_engine_table_is_checked() -> None:
    assert read_engine({"threads": 2, "spec": "off", "beat_s": 0.5}, "f") == Hello(
        "", threads=2, spec="off", beat_s=0.5
    )
    for table, match in (
        ({"thread": 2}, "f: engine: .*`thread`.*known: threads"),
        ({"threads": "two"}, "threads"),
        ({"model": "m"}, "engine.model is not set here"),
    ):
        with pytest.raises(ConfigError, match=match):
            read_engine(table, "f")
