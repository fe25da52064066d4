"""What one process computed the next one finds; what is not whole, or not of this model, it never uses."""

import os

import pytest
import torch

from fathom.batching.pages import PageFormat
from fathom.engine import EngineConfig
from fathom.engine.engine import Engine
from fathom.engine.kept import RECORD, KeptFile
from fathom.errors import ConfigError
from fathom.model import LatentCache
from tests.engine.test_spill import PROMPTS, cache
from tests.engine.tiny import CONFIG, request, run, tiny

FORM = PageFormat("config", "probe", "f32", "torch", "float32", 2, 4, 640)
A, B, C = (name * 32 for name in (b"a", b"b", b"c"))


def kept(directory, pages, slots=3, form=FORM):
    return KeptFile(directory, slots * pages.page_bytes, pages, form)


def test_pages_outlive_the_process_with_their_order_of_use(tmp_path):
    pages = cache()
    first = kept(tmp_path, pages)
    assert first.kept() == []
    for page, (slot, name) in enumerate([(2, A), (0, B), (1, C)]):
        first.write(page, slot, name)
    assert first.read(0, 3)
    first.close()
    second = kept(tmp_path, pages)
    assert second.kept() == [(2, A), (1, C), (0, B)]
    whole = pages.latent.clone()
    assert second.read(2, 3) and torch.equal(pages.latent[:, 3], whole[:, 0])


def test_a_page_half_written_when_the_process_died_is_never_used(tmp_path, caplog):
    pages = cache()
    first = kept(tmp_path, pages)
    first.write(0, 0, A)
    half = bytes(pages.page_bytes // 2)
    os.pwrite(first._file.fileno(), half, 0)  # the next page's bytes came, its record did not
    first.close()
    second, before = kept(tmp_path, pages), pages.latent.clone()
    assert second.kept() == [(0, A)] and not second.read(0, 3)
    assert torch.equal(pages.latent, before) and "does not hold what was written" in caplog.text


@pytest.mark.parametrize("torn", [0, 8, 32, 40, 64])
def test_a_record_torn_between_two_pages_fits_neither(tmp_path, torn):
    """Whatever part of a record came to the disk, name and bytes belong together or the page is lost."""
    pages = cache()
    first = kept(tmp_path, pages)
    first.write(0, 0, A)
    old = (first.folder / "index").read_bytes()
    first.write(1, 0, B)
    new = (first.folder / "index").read_bytes()
    first.close()
    (first.folder / "index").write_bytes(new[:torn] + old[torn : RECORD.size])
    second, expected = kept(tmp_path, pages), {A: pages.page(0)[0].clone(), B: pages.page(1)[0].clone()}
    ((slot, name),) = second.kept()
    assert second.read(slot, 3) == (name == B and torn == 64)
    assert torn < 64 or torch.equal(pages.page(3)[0], expected[B])


def test_a_file_that_ends_early_or_with_a_piece_loses_those_pages_only(tmp_path):
    pages = cache()
    first = kept(tmp_path, pages)
    first.write(0, 0, A)
    first.write(1, 1, B)
    os.ftruncate(first._file.fileno(), 2 * pages.page_bytes - 1)
    first.close()
    with (first.folder / "index").open("ab") as index:
        index.write(b"piece")
    second = kept(tmp_path, pages)
    assert second.kept() == [(0, A), (1, B)]
    assert second.read(0, 3) and not second.read(1, 3)


def test_less_room_than_before_cuts_off_what_lies_beyond(tmp_path):
    pages = cache()
    first = kept(tmp_path, pages)
    for slot, name in enumerate((A, B, C)):
        first.write(slot, slot, name)
    first.close()
    second = kept(tmp_path, pages, slots=2)
    assert second.kept() == [(0, A), (1, B)]
    assert (second.folder / "pages").stat().st_size == 2 * pages.page_bytes


def test_another_model_and_another_process_have_folders_of_their_own(tmp_path):
    pages = cache()
    first = kept(tmp_path, pages)
    first.write(0, 0, A)
    beside = kept(tmp_path, pages)
    other = PageFormat(**{each: getattr(FORM, each) for each in FORM.__struct_fields__} | {"probe": "other"})
    assert beside.kept() == kept(tmp_path, pages, form=other).kept() == []
    assert beside.folder != first.folder
    # even a folder that somebody copied to another model's place is not believed
    foreign = kept(tmp_path / "elsewhere", pages, form=other)
    foreign.close()
    for file in ("pages", "index"):
        (foreign.folder / file).write_bytes((first.folder / file).read_bytes())
    again = kept(tmp_path / "elsewhere", pages, form=other)
    assert again.folder == foreign.folder and not again.read(0, 3)


def test_it_is_nobody_else_s(tmp_path):
    folder = kept(tmp_path / "new", cache()).folder
    assert folder.stat().st_mode & 0o077 == 0
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in ("pages", "index"))


def test_what_cannot_work_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache_dir is .*file, which cannot be used"):
        kept(tmp_path / "file", cache())
    with pytest.raises(ConfigError, match="spill_bytes is 0; it must be at least 640, one page"):
        kept(tmp_path, cache(), slots=0)
    for more in ({"spill_path": "x"}, {"record": "x"}):
        with pytest.raises(ConfigError, match="only one of them"):
            EngineConfig(cache_dir="y", **more)


def test_a_full_disk_costs_pages_and_nothing_else(tmp_path, monkeypatch, caplog):
    pages = cache()
    file = kept(tmp_path, pages)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", full)
        file.write(0, 0, A)
    assert "No space left" in caplog.text and not file.read(0, 3)
    file.close()
    assert kept(tmp_path, pages).kept() == []


# ---- in an engine ----------------------------------------------------------------------------------------------------


def engine(tmp_path, **more):
    limits = {"max_sequences": 2, "page_tokens": 4, "num_pages": 40, "cache_dir": str(tmp_path)}
    return Engine(tiny(), config=EngineConfig(**limits | more))


def ask(worker):
    return [run(worker, [request(i, prompt, max_tokens=6)])[str(i)] for i, prompt in enumerate(PROMPTS)]


def leave(worker):
    """As a process does that is told to end."""
    while worker.save_pages():
        pass
    worker.runner.spill.close()


def test_a_restarted_engine_reads_its_prompts_from_disk(tmp_path):
    first = engine(tmp_path)
    replies = ask(first)
    assert first.stats().spilled_pages == 0  # memory sufficed
    leave(first)
    second = engine(tmp_path)
    assert ask(second) == replies
    stats = second.stats()
    assert stats.disk_hit_tokens == stats.prefix_hit_tokens == 3 * 24
    assert stats.lost_pages == 0 and stats.restored_pages == 3 * 6
    assert ask(second) == replies
    assert second.stats().disk_hit_tokens == 3 * 24 and second.stats().prefix_hit_tokens == 6 * 24  # memory, by now


def test_an_engine_that_is_killed_keeps_what_left_memory_before(tmp_path):
    first = engine(tmp_path, num_pages=10)
    replies = ask(first)
    written = first.stats().spilled_pages
    assert written > 0
    os.close(first.runner.spill._index)  # nothing else is done: the lock goes with the process
    second = engine(tmp_path)
    assert ask(second) == replies and 0 < second.stats().restored_pages <= written


def test_damage_is_computed_again_and_the_reply_is_the_same(tmp_path, caplog):
    first = engine(tmp_path)
    replies = ask(first)
    leave(first)
    size = first.cache.page_bytes
    with (first.runner.spill.folder / "pages").open("r+b") as pages:
        for slot in range(0, first.stats().spilled_pages, 2):
            pages.seek(slot * size + 100)
            pages.write(b"\xaa\x55")
    second = engine(tmp_path)
    assert ask(second) == replies
    assert second.stats().lost_pages > 0 and "computed again" in caplog.text


def test_pages_are_written_a_few_at_a_time_and_once(tmp_path):
    worker = engine(tmp_path)
    ask(worker)
    counts = []
    while worker.save_pages(most=5):
        counts.append(worker.stats().spilled_pages)
    assert counts == list(range(5, worker.stats().spilled_pages, 5))
    written = worker.stats().spilled_pages
    ask(worker)
    assert not worker.save_pages() and worker.stats().spilled_pages == written


def test_the_folder_stays_within_its_limit(tmp_path):
    page_bytes = LatentCache(CONFIG, 1, 4).page_bytes
    worker = engine(tmp_path, spill_bytes=4 * page_bytes)
    ask(worker)
    leave(worker)
    assert (worker.runner.spill.folder / "pages").stat().st_size == 4 * page_bytes
    assert len(engine(tmp_path, spill_bytes=4 * page_bytes).scheduler.tables.spill) == 4
