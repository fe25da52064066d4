"""What an operation costs does not depend on the size of the pool: bytecodes are counted, no clock is asked."""

import sys

from fathom.batching.limits import SchedulerConfig
from fathom.batching.pages import PagePool, page_hash, root_hash
from fathom.batching.plan import Sampled
from fathom.batching.scheduler import Scheduler
from fathom.batching.spill import SpillIndex
from tests.batching.remembering import request


def bytecodes(call, *args):
    """How many bytecodes of fathom.batching one call executes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if "/fathom/batching/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*args)
    finally:
        sys.settrace(before)
    return count


class Comparisons(int):
    """A page number that counts what it is compared with, so that no search hides in a list or a dict."""

    count = 0

    def __eq__(self, other):
        Comparisons.count += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


def pool_costs(size):
    pool = PagePool(size)
    pool._free = [Comparisons(page) for page in pool._free]
    names = [root_hash()]
    for page in range(size):
        names.append(page_hash(names[-1], (page,)))
    Comparisons.count = 0
    pages = [pool.allocate() for _ in range(size)]
    for page, name in zip(pages, names[1:], strict=True):
        pool.publish(page, name)
    costs = {"release": bytecodes(pool.release, pages[size // 2 : size // 2 + 1])}
    costs["match"] = bytecodes(pool.match, [names[size // 2 + 1]])
    costs["hold"] = bytecodes(pool.hold, [pages[size // 2]])
    pool.release(pages)
    costs["allocate by eviction"] = bytecodes(pool.allocate)
    costs["comparisons per page"] = round(Comparisons.count / size)
    return costs


def test_operations_of_the_pool_cost_the_same_in_any_size():
    assert pool_costs(16) == pool_costs(4096)


def spill_costs(size):
    index = SpillIndex(size)
    names = [str(i).encode() for i in range(size + 1)]
    for name in names[:-1]:
        index.write(name)
    index.settle()
    costs = [bytecodes(index.read, names[size // 2]), bytecodes(index.write, names[-1])]
    return [*costs, bytecodes(index.lose, (size // 2,)), bytecodes(index.settle)]


def test_operations_of_the_spill_index_cost_the_same_in_any_size():
    assert spill_costs(16) == spill_costs(4096)


def decode_cost(context, num_pages, sequences):
    scheduler = Scheduler(SchedulerConfig(8192, 32, 16, num_pages))
    for name in range(sequences):
        scheduler.add(request(name, range(name, name + context), max_tokens=99, ignore_eos=True))

    def step():
        plan = scheduler.schedule()
        scheduler.update(plan, [Sampled((5,))] * sum(row.sampling is not None for row in plan.rows))

    for _ in range(2):
        step()
    assert all(sequence.remaining == 1 for sequence in scheduler.running)
    return bytecodes(step)


def test_a_step_of_decodes_costs_the_same_with_any_context_and_pool_and_the_more_the_more_sequences():
    few = decode_cost(20, 64, 2)
    assert few == decode_cost(4000, 8192, 2)
    assert decode_cost(20, 640, 32) < 16 * few
