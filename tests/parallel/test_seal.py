"""What is sealed arrives as it was, or not at all."""

from __future__ import annotations

import pytest
import torch

from fathom.errors import WorkerError
from fathom.parallel.groups import Groups
from fathom.parallel.seal import CHECK_BYTES, Sealed, Seals, sealed, sealed_bytes


class Mirror:
    """A group of `size` ranks that all send what this one does."""

    def __init__(self, size: int) -> None:
        self.size, self.given_up = size, False

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        return own.expand(self.size, *own.shape).clone()

    def exchange(self, to: torch.Tensor, rows: torch.Tensor, incoming: list[int], outgoing: list[int]) -> None:
        assert incoming == outgoing and sum(incoming) == len(to)
        to.copy_(rows)

    def give_up(self) -> None:
        self.given_up = True


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16])
@pytest.mark.parametrize("counts", [[3], [2, 0, 1], [0, 0]])
def test_rows_come_out_as_they_went_in(dtype: torch.dtype, counts: list[int]) -> None:
    x = (torch.randn(sum(counts), 5) * 9).to(dtype)
    raw = Seals().seal(x, counts)
    assert len(raw) == sum(sealed_bytes(x, count) for count in counts) == x.nbytes + CHECK_BYTES * len(counts)
    out = torch.empty_like(x)
    Seals().open(raw, out, counts)
    assert torch.equal(out, x)


def test_each_bit_counts() -> None:
    x = torch.randn(2, 3)
    raw = Seals().seal(x, [2])
    for at in range(len(raw)):
        for bit in range(8):
            spoilt = raw.clone()
            spoilt[at] ^= 1 << bit
            with pytest.raises(WorkerError, match="peer 0 of 1 was changed on its way"):
                Seals().open(spoilt, torch.empty_like(x), [2])


def test_groups_give_what_they_give_without_seals() -> None:
    plain, seals = Mirror(3), Seals()
    group = Sealed(plain, seals)
    own, ids = torch.randn(2, 4), torch.arange(5)
    assert torch.equal(group.gather(own), plain.gather(own)) and torch.equal(group.gather(ids), plain.gather(ids))
    assert group.gather(own[:0]).shape == (3, 0, 4)
    wide = torch.zeros(6, 9)
    rows = torch.randn(6, 4)
    group.exchange(wide[:, :4], rows, [1, 2, 3], [1, 2, 3])
    assert torch.equal(wide[:, :4], rows) and not wide[:, 4:].any()
    group.give_up()
    assert plain.given_up


@pytest.mark.parametrize("op", ["gather", "exchange"])
def test_what_is_spoilt_on_its_way_is_found_and_named(op: str) -> None:
    seals = Seals()
    group = Sealed(Mirror(2), seals)
    seals.ask("combine", 3, spoil=True)
    x = torch.randn(4, 4)
    with pytest.raises(WorkerError, match="for combine of layer 3 from peer . of 2 was changed on its way"):
        group.gather(x) if op == "gather" else group.exchange(torch.empty(4, 4), x, [1, 3], [1, 3])
    assert group.gather(x).shape == (2, 4, 4), "one message is spoilt, not all that follow"


def test_those_alone_have_nothing_to_seal() -> None:
    groups = sealed(Groups(None, Mirror(2), 3, None), Seals())  # type: ignore[arg-type]
    assert groups.tp is None and isinstance(groups.ep, Sealed) and (groups.before, groups.after) == (3, None)
