"""Pages come back from the file bit for bit, or not at all."""

import os

import pytest
import torch

from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.spill import LostPages, SpillFile
from fathom.errors import ConfigError
from fathom.model import LatentCache
from tests.engine.tiny import CONFIG, request, run, tiny


def cache(dtype=torch.float32, pages=4):
    made = LatentCache(CONFIG, pages, 4, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    for part in (made.latent, made.rope):
        part.copy_(torch.randn(part.shape, generator=generator))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_page_comes_back_bit_for_bit_and_nothing_else_changes(tmp_path, dtype):
    pages = cache(dtype)
    file = SpillFile(tmp_path / "spill", 3 * pages.page_bytes + 1, pages)
    assert file.num_slots == 3
    kept = [part.clone() for part in (pages.latent, pages.rope)]
    file.write(1, 2)
    file.write(3, 0)
    for part in pages.page(1):
        part.zero_()
    assert file.read(2, 1)
    assert torch.equal(pages.latent, kept[0]) and torch.equal(pages.rope, kept[1])
    assert file.read(0, 2)
    assert all(torch.equal(ours, other[:, 3]) for ours, other in zip(pages.page(2), kept, strict=True))


def test_a_damaged_slot_is_not_read(tmp_path, caplog):
    pages = cache()
    file = SpillFile(tmp_path / "spill", 2 * pages.page_bytes, pages)
    file.write(1, 0)
    file.write(2, 1)
    os.pwrite(file._file.fileno(), b"\x55", pages.page_bytes - 1)
    before = pages.latent.clone()
    assert not file.read(0, 3)
    assert file.read(1, 2)
    assert torch.equal(pages.latent, before)
    assert "slot 0 does not hold what was written" in caplog.text


def test_a_file_cut_short_or_a_slot_never_written_is_not_read(tmp_path):
    pages = cache()
    file = SpillFile(tmp_path / "spill", 2 * pages.page_bytes, pages)
    file.write(1, 0)
    assert not file.read(1, 2)
    file._file.truncate(9)
    assert not file.read(0, 2)


def test_a_full_disk_costs_a_page_and_nothing_else(tmp_path, monkeypatch, caplog):
    pages = cache()
    file = SpillFile(tmp_path / "spill", 2 * pages.page_bytes, pages)
    file.write(1, 0)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", full)
        file.write(2, 0)
    assert "No space left" in caplog.text
    assert not file.read(0, 3)


def test_the_file_has_no_name_once_it_is_open_and_is_nobody_else_s(tmp_path):
    pages = cache()
    path = tmp_path / "spill"
    file = SpillFile(path, 10**6, pages)
    assert not path.exists()
    assert os.fstat(file._file.fileno()).st_mode & 0o077 == 0
    path.write_text("precious")
    with pytest.raises(ConfigError, match="which exists"):
        SpillFile(path, 10**6, pages)
    assert path.read_text() == "precious"


def test_what_cannot_work_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be made"):
        SpillFile(tmp_path / "none" / "spill", 10**6, cache())
    with pytest.raises(ConfigError, match="spill_bytes is 9; it must be at least 640, one page"):
        SpillFile(tmp_path / "spill", 9, cache())
    assert LostPages([3]).slots == (3,)


PROMPTS = [tuple(range(i, i + 25)) for i in range(3)]


def engine(tmp_path, **more):
    limits = {"max_sequences": 2, "page_tokens": 4, "num_pages": 10, "spill_path": str(tmp_path / "spill")}
    return Engine(tiny(), config=EngineConfig(**limits | more))


def rounds(worker, damage=lambda: None):
    """Each prompt twice, with others in between that drive its pages out; the replies."""
    replies = []
    for name, prompt in enumerate(PROMPTS * 2):
        if name == len(PROMPTS):
            damage()
        replies.append(run(worker, [request(name, prompt, max_tokens=6, seed=7, temperature=0.8)])[str(name)])
    return replies


def test_pages_driven_out_of_memory_are_found_again(tmp_path):
    worker = engine(tmp_path)
    replies = rounds(worker)
    stats = worker.stats()
    assert replies[:3] == replies[3:] == rounds(engine(tmp_path, spill_path=None))[:3]
    assert stats.spilled_pages > 0
    assert stats.prefix_hit_tokens == 3 * 24  # of each 25 tokens all that fill a page
    assert 0 < stats.restored_pages <= 3 * 6
    assert stats.lost_pages == 0
    assert worker.step_time.restore_s > 0


def test_damaged_pages_are_computed_again_and_the_reply_is_the_same(tmp_path, caplog):
    worker = engine(tmp_path)

    def damage():
        file = worker.runner.spill
        for slot in range(worker.stats().spilled_pages):
            os.pwrite(file._file.fileno(), b"\xaa\x55", slot * file.page_bytes + 100)

    replies = rounds(worker, damage)
    assert replies[:3] == replies[3:]
    assert worker.stats().lost_pages > 0
    assert "computed again" in caplog.text
    assert worker.scheduler.pool.used == 0


def test_a_small_file_keeps_the_latest(tmp_path):
    page_bytes = LatentCache(CONFIG, 1, 4).page_bytes
    worker = engine(tmp_path, spill_bytes=3 * page_bytes)
    replies = rounds(worker)
    assert replies[:3] == replies[3:]
    assert worker.runner.spill.num_slots == 3
    assert os.fstat(worker.runner.spill._file.fileno()).st_size <= 3 * page_bytes
