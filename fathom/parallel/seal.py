"""Rows as bytes with a checksum behind them, so that what arrives is what was sent, or is known not to be.

TCP's own checksum has 16 bits, and does not cover what happens in the memory of either host.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fathom.errors import WorkerError
from fathom.parallel.groups import Group, Groups

CHECK_BYTES = 4  # CRC-32: finds every change within 32 bits in a row, all but one of 4 * 10^9 others


class Seals:
    """Seals what a rank sends and opens what it gets, for one operation after the other."""

    def __init__(self) -> None:
        self._op, self._layer, self._spoil = "", -1, False

    def ask(self, op: str, layer: int, *, spoil: bool) -> None:
        """An operation begins. spoil: change a bit of what it sends first."""
        self._op, self._layer, self._spoil = op, layer, spoil

    def seal(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows by receiver, `counts` of them for each, as bytes; a checksum follows what each receiver gets."""
        parts: list[Tensor] = []
        for part in x.split(list(counts)):
            raw = _raw(part)
            parts += [raw, _check(raw)]
        out = torch.cat(parts)
        if self._spoil:
            out[len(out) // 2] ^= 16
            self._spoil = False
        return out

    def open(self, raw: Tensor, to: Tensor, counts: Sequence[int]) -> None:
        """Fill `to`, contiguous, with sealed rows by sender. Raises: WorkerError: they were changed on their way."""
        parts, rows = raw.split([sealed_bytes(to, count) for count in counts]), to.split(list(counts))
        for sender, (part, own) in enumerate(zip(parts, rows, strict=True)):
            body = part[:-CHECK_BYTES]
            if not torch.equal(_check(body), part[-CHECK_BYTES:]):
                layer = "" if self._layer < 0 else f" of layer {self._layer}"
                raise WorkerError(
                    f"what came for {self._op}{layer} from peer {sender} of {len(counts)} was changed on its way: "
                    "its checksum differs"
                )
            _raw(own).copy_(body)


class Sealed:
    """A group whose messages carry checksums."""

    def __init__(self, group: Group, seals: Seals) -> None:
        self._group, self._seals = group, seals

    def gather(self, own: Tensor) -> Tensor:
        raw = self._group.gather(self._seals.seal(own, [len(own)]))
        out = own.new_empty(len(raw), *own.shape)
        self._seals.open(raw.flatten(), out.flatten(0, 1), [len(own)] * len(raw))
        return out

    def exchange(self, to: Tensor, rows: Tensor, incoming: Sequence[int], outgoing: Sequence[int]) -> None:
        into = to if to.is_contiguous() else torch.empty_like(to, memory_format=torch.contiguous_format)
        come, go = ([sealed_bytes(rows, count) for count in counts] for counts in (incoming, outgoing))
        raw = torch.empty(sum(come), dtype=torch.uint8)
        self._group.exchange(raw, self._seals.seal(rows, outgoing), come, go)
        self._seals.open(raw, into, incoming)
        if into is not to:
            to.copy_(into)

    def give_up(self) -> None:
        self._group.give_up()


def sealed(groups: Groups, seals: Seals) -> Groups:
    """The same groups, with checksums."""
    tp, ep = (None if group is None else Sealed(group, seals) for group in (groups.tp, groups.ep))
    return replace(groups, tp=tp, ep=ep)


def sealed_bytes(x: Tensor, rows: int) -> int:
    """Bytes of so many rows like those of `x`, sealed [B]."""
    return rows * x.shape[1:].numel() * x.dtype.itemsize + CHECK_BYTES


def _raw(x: Tensor) -> Tensor:
    """The same memory as bytes [n]."""
    return x.contiguous().view(-1).view(torch.uint8)


def _check(raw: Tensor) -> Tensor:
    check = zlib.crc32(raw.numpy().data)
    return torch.frombuffer(bytearray(check.to_bytes(CHECK_BYTES, "big")), dtype=torch.uint8)
