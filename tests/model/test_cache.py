"""Batch and LatentCache: where every token belongs."""

import mmap
from array import array
from pathlib import Path

import pytest
import torch

from fathom.cost import cache_bytes_per_token
from fathom.model import Batch, LatentCache
from fathom.model.cache import int_tensor, take_rows
from tests.model.tiny import CONFIG


def test_slots_follow_the_page_table() -> None:
    batch = Batch.paged([3, 1], [2, 4], [[5, 1], [0, 7, 2]], page_tokens=4)
    assert batch.positions.tolist() == [2, 3, 4, 4]
    assert batch.slots.tolist() == [5 * 4 + 2, 5 * 4 + 3, 1 * 4 + 0, 7 * 4 + 0]
    assert batch.key_lengths == (5, 5)


def test_parts_split_decoding_from_reading() -> None:
    batch = Batch.paged([1, 3, 1], [4, 0, 7], [[0, 1], [2], [3, 4]], page_tokens=4)
    assert batch.decoding.rows.tolist() == [0, 4]
    assert batch.reading.rows.tolist() == [1, 2, 3]
    assert batch.decoding.key_lengths == (5, 8)
    assert batch.reading.page_table.tolist() == [[2, 0]]


def test_the_cache_takes_the_bytes_that_cost_says() -> None:
    cache = LatentCache(CONFIG, num_pages=3, page_tokens=5, dtype=torch.bfloat16)
    assert cache.nbytes == 15 * cache_bytes_per_token(CONFIG)


def resident_bytes() -> int:
    file = Path("/proc/self/statm")
    if not file.is_file():
        pytest.skip("this system does not say what is resident")
    return int(file.read_text().split()[1]) * mmap.PAGESIZE


def test_room_takes_memory_once_it_is_written() -> None:
    before = resident_bytes()
    cache = LatentCache(CONFIG, num_pages=50_000, page_tokens=16, dtype=torch.bfloat16)
    assert cache.nbytes > 90e6 and resident_bytes() - before < 10e6
    assert not cache.latent[:, ::1000].any() and not cache.rope[:, -1].any()
    cache.latent[:, :25_000] = 1.0
    assert resident_bytes() - before > 0.4 * cache.latent.nbytes
    assert not cache.latent[:, 25_000:].any()


def test_rows_are_taken_as_an_index_would_and_without_a_copy_where_that_is_possible() -> None:
    x = torch.arange(12.0).view(4, 3)
    views, copies = ([2], [0, 1, 2, 3]), ([0, 2], [0, 0, 1, 1], [3, 2, 1, 0])
    for rows in (*views, *copies):
        taken = take_rows(x, array("q", rows))
        assert torch.equal(taken, x[rows])
        assert (taken.data_ptr() == x[rows[0]].data_ptr()) == (rows in views)


def test_tensors_from_arrays_have_their_width() -> None:
    assert int_tensor(array("i", [3, -1])).tolist() == int_tensor(array("q", [3, -1])).tolist() == [3, -1]
    assert (int_tensor(array("i", [3])).dtype, int_tensor(array("q", [3])).dtype) == (torch.int32, torch.int64)
