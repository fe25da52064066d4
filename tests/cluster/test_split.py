"""Pools of different layouts: prompts read by ranks that share heads, decoded by ranks that share experts."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from fathom.layout import Layout
from fathom.layout.deploy import Pool
from fathom.serve.transport import WORKER
from tests.serve.test_disaggregate import QUICKLY, bare, client, each_as, fleet, idle, mixed, nano, replies, settles
from tests.serve.test_disaggregate import told_by_one as alone

POOLS = Pool("p", role="prefill", layout=Layout(tp=2)), Pool("d", role="decode", layout=Layout(dp=2, ep=2))


@pytest.mark.usefixtures("native")
def test_pages_of_one_crew_are_of_use_to_another_until_it_dies() -> None:
    async def main() -> None:
        expected = await alone(mixed())
        async with fleet(nano(threads=2), POOLS, WORKER, QUICKLY) as ours:
            assert bare(await replies(ours, each_as(mixed(), "a"))) == expected
            await settles(lambda: client(ours, "d-0").stats.fetches > 5 and idle(ours))
            assert ours.prefilled > 12 and client(ours, "d-0").stats.failed_fetches == 0

            def disturb(arrivals: int) -> None:
                if arrivals == 20:
                    os.kill(client(ours, "d-0").pid, signal.SIGKILL)

            assert bare(await replies(ours, each_as(mixed(), "b"), disturb)) == expected
            await settles(lambda: idle(ours), 40.0)

    asyncio.run(main())
