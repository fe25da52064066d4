"""Pages are shared while nobody writes, copied when somebody does, and read back when their content is known."""

from fathom.batching.request import Request, SamplingParams, Sequence
from fathom.batching.tables import PageTables


def sequence(tokens, salt="", computed=0):
    each = Sequence(Request("a", tuple(tokens), SamplingParams(), cache_salt=salt), (0, 0), list(tokens))
    each.computed, each.running = computed, True
    return each


def computed(tables, tokens, salt=""):
    """A sequence all of whose tokens have been computed and published."""
    each = sequence(tokens, salt)
    tables.reuse(each, 0)
    each.pages += [tables.pool.allocate() for _ in range(tables.pages_for(len(tokens)) - len(each.pages))]
    each.computed = len(tokens)
    tables.publish(each)
    return each


def test_the_last_token_is_computed_even_if_its_page_exists():
    tables = PageTables(8, 2)
    first = computed(tables, range(6))
    assert tables.match(sequence(range(6))) == first.pages[:2]
    assert tables.match(sequence(range(7))) == first.pages


def test_another_salt_or_arithmetic_finds_nothing():
    tables = PageTables(8, 2, numerics="exact")
    computed(tables, range(5))
    assert len(tables.match(sequence(range(5)))) == 2
    assert tables.match(sequence(range(5), "salt")) == []
    tables.numerics = "fast"
    assert tables.match(sequence(range(5))) == []


def test_only_the_names_that_are_needed_are_computed():
    tables = PageTables(64, 2)
    long = sequence(range(100))
    assert tables.match(long) == []
    assert len(long.hashes) == 1


def test_a_sequence_takes_over_pages_that_appear_ahead_of_it():
    tables = PageTables(16, 2)
    slow, fast = sequence(range(9)), computed(tables, range(5))
    assert tables.reuse(slow, 0) == (0, False)
    assert slow.pages == fast.pages[:2]
    fast.tokens += [5, 6, 7]
    fast.pages += [tables.pool.allocate() for _ in range(1)]
    fast.computed = 8
    tables.publish(fast)
    tables.reuse(slow, 0)
    assert (slow.pages, slow.computed, slow.published) == (fast.pages, 8, 4)
    assert all(tables.pool.refs[page] == 2 for page in slow.pages)


def test_siblings_share_the_last_page_until_one_writes_into_it():
    tables = PageTables(8, 4)
    elder = computed(tables, range(6))
    siblings = [sequence(range(6)) for _ in range(2)]
    for each in siblings:
        tables.share(elder, each)
    shared = elder.pages[1]
    assert all(each.pages == elder.pages and each.computed == 6 for each in siblings)
    assert tables.pool.refs[shared] == 3
    for each in (elder, siblings[0]):
        assert tables.shares_next(each)
        tables.copy_next(each)
    assert not tables.shares_next(siblings[1])
    assert tables.copies == [(shared, elder.pages[1]), (shared, siblings[0].pages[1])]
    assert siblings[1].pages[1] == shared
    assert len({each.pages[0] for each in (elder, *siblings)}) == 1
    tables.settle()
    assert (tables.copied, tables.copies) == (2, [])


def test_a_full_last_page_is_never_copied():
    tables = PageTables(8, 4)
    elder, sibling = computed(tables, range(8)), sequence(range(8))
    tables.share(elder, sibling)
    assert not tables.shares_next(elder)
    assert not tables.shares_next(sibling)


def spilled(tables, tokens):
    """Compute `tokens`, then drive their full pages out of memory; the pages they lay in."""
    each = computed(tables, tokens)
    pages = list(each.pages)
    tables.release(each)
    others = [tables.pool.allocate() for _ in range(tables.pool.num_pages)]
    moves = list(tables.spills)
    tables.settle()
    tables.pool.release(others)
    return pages, moves


def test_evicted_pages_go_to_the_file_and_come_back_under_their_names():
    tables = PageTables(4, 2, spill_slots=8)
    pages, moves = spilled(tables, range(7))
    assert sorted(page for page, _ in moves) == sorted(pages[:3])
    back = sequence(range(7))
    assert tables.reuse(back, 2) == (2, True)  # a third one waits for its turn
    assert tables.reuse(back, 9) == (1, False)
    slot_of = dict(moves)
    assert tables.restores == [(slot_of[old], new) for old, new in zip(pages, back.pages, strict=False)]
    assert (back.computed, back.published) == (6, 0)
    assert tables.match(sequence(range(7))) == []  # not before they are there
    tables.settle()
    assert tables.match(sequence(range(7))) == back.pages
    assert (tables.spill.spilled, tables.spill.restored) == (3, 3)


def test_a_page_that_lies_in_the_file_is_not_written_again():
    tables = PageTables(4, 2, spill_slots=8)
    spilled(tables, range(7))
    back = sequence(range(7))
    tables.reuse(back, 9)
    tables.settle()
    tables.release(back)
    for _ in range(4):
        tables.pool.allocate()
    assert tables.spills == []


def test_what_a_failed_plan_moved_is_forgotten():
    tables = PageTables(4, 2, spill_slots=8)
    pages, _ = spilled(tables, range(5))
    back = sequence(range(5))
    tables.reuse(back, 9)
    assert list(tables.moved) == [back]
    tables.release(back)
    tables.cancel()
    assert (tables.restores, tables.moved, tables.spill.restored) == ([], {}, 0)
    assert tables.pool.available == 4
    assert len(pages) == 3


def kept(kept_before=()):
    tables = PageTables(8, 2, spill_slots=8)
    tables.keep(kept_before)
    return tables


def test_pages_of_a_file_that_lasts_are_written_while_they_are_in_memory():
    tables = kept()
    each = computed(tables, range(7))
    assert tables.unsaved == 3
    moves = tables.save(2)
    assert [page for page, _, _ in moves] == each.pages[:2] and tables.unsaved == 1
    tables.spill.settle()
    assert [name for _, _, name in moves + tables.save(9)] == each.hashes
    tables.spill.settle()
    assert (tables.save(9), tables.spill.spilled) == ([], 3)


def test_what_is_evicted_or_in_the_file_is_not_written_again():
    tables = kept()
    names = computed(tables, range(4)).hashes
    tables = kept([(0, names[0])])
    each = computed(tables, range(4))
    assert tables.unsaved == 1
    tables.release(each)
    others = [tables.pool.allocate() for _ in range(8)]
    assert (tables.spill_names, tables.unsaved) == (names[1:], 0)
    assert tables.save(9) == []  # a plan is under way
    tables.settle()
    tables.pool.release(others)


def test_a_file_for_one_process_takes_only_what_leaves_memory():
    tables = PageTables(8, 2, spill_slots=8)
    computed(tables, range(7))
    assert (tables.save(9), tables.unsaved) == ([], 0)


def test_a_table_is_built_anew_only_when_it_has_changed():
    tables = PageTables(8, 4)
    each = computed(tables, range(6))
    table = tables.table(each)
    assert table == tuple(each.pages)
    assert tables.table(each) is table
    tables.share(each, sequence(range(6)))
    tables.copy_next(each)
    assert tables.table(each) == tuple(each.pages) != table


def test_known_tokens_are_those_that_would_be_found():
    tables = PageTables(16, 4)
    computed(tables, range(10))  # two full pages, and one that is not
    for length, known in ((3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (10, 8), (13, 8)):
        prompt = sequence(range(length))
        assert tables.known_tokens(prompt.request) == known == 4 * len(tables.match(prompt)), length
    assert tables.known_tokens(sequence((0, 1, 2, 9, 4, 5, 6, 7, 8)).request) == 0
    assert tables.known_tokens(sequence((*range(4), 9, 5, 6, 7, 8)).request) == 4
    assert tables.known_tokens(sequence(range(9), "salt").request) == 0
    assert tables.known_tokens(sequence(range(0)).request) == 0
    computed(tables, range(16))
    for length in range(1, 17):
        prompt = sequence(range(length))
        assert tables.known_tokens(prompt.request) == 4 * len(tables.match(prompt)), length
