"""No page is lost, none is used twice, and content is shared exactly when all tokens before it agree."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fathom.batching.pages import PageFormat, PagePool, content_digest, page_hash, page_names, root_hash
from fathom.errors import ConfigError, EngineError


def chain(*pages, salt=""):
    names = [root_hash(salt)]
    for tokens in pages:
        names.append(page_hash(names[-1], tokens))
    return names[1:]


def test_names_of_a_text_are_those_of_its_full_pages():
    root = root_hash()
    assert page_names((1, 2, 3, 4, 5), 2, root) == chain((1, 2), (3, 4))
    assert page_names((3, 4), 2, chain((1, 2))[0]) == chain((1, 2), (3, 4))[1:]
    assert page_names((1,), 2, root) == []


def test_a_digest_certifies_format_name_and_content():
    form = PageFormat("c", "p", "f32", "torch", "float32", 2, 4, 640)
    changed = [
        PageFormat(**{each: getattr(form, each) for each in form.__struct_fields__} | {name: value})
        for name, value in (("probe", "q"), ("page_tokens", 8), ("layers", 3), ("version", 2))
    ]
    whole = [content_digest(each.key, b"n" * 32, b"bytes") for each in (form, *changed)]
    whole += [content_digest(form.key, b"m" * 32, b"bytes"), content_digest(form.key, b"n" * 32, b"bytez")]
    assert len(set(whole)) == len(whole)
    assert content_digest(form.key, b"n" * 32, memoryview(b"bytes")) == whole[0]
    assert [form.difference(each) for each in (form, changed[1])] == [None, "page_tokens is 8, not 4"]


def test_hash_depends_on_tokens_order_parent_and_salt():
    names = [
        chain((1, 2), (3, 4))[1],
        chain((1, 2), (4, 3))[1],
        chain((2, 1), (3, 4))[1],
        chain((3, 4))[0],
        chain((1, 2), (3, 4), salt="x")[1],
        chain((1, 2, 3, 4))[0],
    ]
    assert len(set(names)) == len(names)
    assert chain((1, 2), (3, 4)) == chain((1, 2), (3, 4))


def test_large_token_ids_do_not_wrap():
    assert chain((2**32 - 1,)) != chain((2**16 - 1,))


def test_a_pool_needs_a_page():
    with pytest.raises(ConfigError, match="num_pages is 0"):
        PagePool(0)


def test_all_pages_can_be_allocated_and_not_one_more():
    pool = PagePool(3)
    assert sorted(pool.allocate() for _ in range(3)) == [0, 1, 2]
    assert (pool.used, pool.available) == (3, 0)
    with pytest.raises(EngineError, match="all 3 pages"):
        pool.allocate()


def test_published_content_is_found_while_used_and_after():
    pool, (name,) = PagePool(2), chain((1, 2))
    page = pool.allocate()
    assert pool.match([name]) == []
    pool.publish(page, name)
    assert pool.match([name]) == [page]
    pool.release([page])
    assert (pool.match([name]), pool.idle, pool.used) == ([page], 1, 0)
    pool.hold([page])
    assert (pool.refs[page], pool.idle, pool.hits) == (1, 0, 1)


def test_match_stops_at_the_first_gap():
    pool, names = PagePool(3), chain((1,), (2,), (3,))
    pages = [pool.allocate() for _ in names]
    pool.publish(pages[0], names[0])
    pool.publish(pages[2], names[2])
    assert pool.match(names) == [pages[0]]


def test_pages_without_content_are_taken_before_idle_ones():
    pool, (name,) = PagePool(2), chain((1,))
    page = pool.allocate()
    pool.publish(page, name)
    pool.release([page])
    assert pool.allocate() != page
    assert pool.evictions == 0
    assert pool.allocate() == page
    assert (pool.evictions, pool.match([name])) == (1, [])


def test_eviction_takes_the_least_recently_used_and_tails_before_heads():
    pool, names = PagePool(3), chain((1,), (2,), (3,))
    pages = [pool.allocate() for _ in names]
    for page, name in zip(pages, names, strict=True):
        pool.publish(page, name)
    pool.release(pages)
    pool.allocate()
    assert pool.match(names) == pages[:2]
    pool.hold(pages[:1])  # used again: now the youngest
    pool.release(pages[:1])
    pool.allocate()
    assert pool.match(names) == pages[:1]


def test_a_page_shared_by_two_outlives_one_of_them():
    pool, (name,) = PagePool(1), chain((1,))
    page = pool.allocate()
    pool.publish(page, name)
    pool.hold([page])
    pool.release([page])
    assert pool.available == 0
    pool.release([page])
    assert pool.available == 1


def test_second_copy_of_the_same_content_stays_private():
    pool, (name,) = PagePool(2), chain((1,))
    first, second = pool.allocate(), pool.allocate()
    pool.publish(first, name)
    pool.publish(second, name)
    assert pool.match([name]) == [first]
    pool.release([first, second])
    assert pool.idle == 1


def test_misuse_is_refused():
    pool = PagePool(1)
    page = pool.allocate()
    pool.release([page])
    for misuse in (
        lambda: pool.release([page]),
        lambda: pool.hold([page]),
        lambda: pool.publish(page, b"name"),
    ):
        with pytest.raises(EngineError):
            misuse()


class Pool(RuleBasedStateMachine):
    """Random holders against a model that only counts: which page is held how often, and what it contains."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(4)
        self.holders = []
        self.content = {}

    @precondition(lambda self: self.pool.available)
    @rule()
    def allocate(self):
        page = self.pool.allocate()
        assert all(page not in held for held in self.holders)
        self.content.pop(page, None)
        self.holders.append([page])

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), name=st.sampled_from([b"a", b"b", b"c"]))
    def publish(self, data, name):
        page = data.draw(st.sampled_from(self.holders))[0]
        if page not in self.content and name not in self.content.values():
            self.content[page] = name
        self.pool.publish(page, name)

    @rule(name=st.sampled_from([b"a", b"b", b"c"]))
    def share(self, name):
        pages = self.pool.match([name])
        assert pages == [page for page, known in self.content.items() if known == name]
        if pages:
            self.pool.hold(pages)
            self.holders.append(pages)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data):
        held = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(held)

    @invariant()
    def counts_agree(self):
        held = [page for pages in self.holders for page in pages]
        assert self.pool.refs == [held.count(page) for page in range(4)]
        assert self.pool.used == len(set(held))
        assert self.pool.available == 4 - len(set(held))
        assert self.pool.idle == len(set(self.content) - set(held))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30)
