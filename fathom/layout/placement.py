"""Where the copies of each routed expert lie: one Placement per layer, balanced by load, and the moves between two.

A layer has as many slots as its experts and their redundant copies; rank r of the expert-parallel group holds a run of
equally many. The policies are those of DeepSeek's EPLB. Pure arithmetic on lists; the engine moves the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fathom.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """The expert in each slot of one layer, every expert at least once. Slots of a rank are consecutive."""

    slots: tuple[int, ...]
    ranks: int

    def __post_init__(self) -> None:
        if self.ranks < 1 or not self.slots or len(self.slots) % self.ranks:
            raise ConfigError(f"{len(self.slots)} slots do not divide among {self.ranks} ranks; use a multiple.")
        missing = set(range(self.experts)) ^ set(self.slots)
        if missing:
            raise ConfigError(f"expert {min(missing)} has no slot, or is negative; place 0 to {self.experts - 1}.")

    @classmethod
    def contiguous(cls, experts: int, ranks: int) -> Placement:
        """No copies, experts in order: what `Shard.experts` says."""
        return cls(tuple(range(experts)), ranks)

    @property
    def experts(self) -> int:
        """Number of different experts."""
        return max(self.slots) + 1

    @property
    def slots_per_rank(self) -> int:
        """Experts that a rank holds."""
        return len(self.slots) // self.ranks

    def rank_of(self, slot: int) -> int:
        """The rank that holds a slot."""
        return slot // self.slots_per_rank

    def on_rank(self, rank: int) -> tuple[int, ...]:
        """The expert in each slot of a rank."""
        return self.slots[rank * self.slots_per_rank : (rank + 1) * self.slots_per_rank]

    @cached_property
    def replicas(self) -> tuple[tuple[int, ...], ...]:
        """The slots of each expert, ascending."""
        found: list[list[int]] = [[] for _ in range(self.experts)]
        for slot, expert in enumerate(self.slots):
            found[expert].append(slot)
        return tuple(map(tuple, found))

    def replica_for(self, expert: int, source: int, number: int) -> int:
        """The slot whose copy serves a row. Copies hold the same bytes, so the choice changes no number.

        Senders take the copies in turn, each beginning at another one: what a sender sends to an expert divides evenly
        to within one row, and so do single rows of many senders. A function of its arguments alone, so a step that is
        executed again goes the same ways.

        Args: source: place of the sender among those that send, 0 1 2 ... (dp_rank where only one rank of a tp group
              sends). number: how many rows it has sent to this expert in this layer and step before this one.
        """
        slots = self.replicas[expert]
        return slots[(source + number) % len(slots)]

    def rank_loads(self, load: Sequence[float]) -> list[float]:
        """What each rank receives [rows], if the copies of an expert share its `load` [rows] evenly."""
        each = [load[expert] / len(slots) for expert, slots in enumerate(self.replicas)]
        return [sum(each[expert] for expert in self.on_rank(rank)) for rank in range(self.ranks)]

    def imbalance(self, load: Sequence[float]) -> float:
        """Load of the busiest rank over that of the mean rank: 1 is perfect, and 1 without any load."""
        loads = self.rank_loads(load)
        return max(loads) * self.ranks / sum(loads) if any(loads) else 1.0


@dataclass(frozen=True)
class Move:
    """One expert to copy: into `slot`, which is on rank `target`, from rank `source`, where it lies already."""

    layer: int
    expert: int
    source: int
    target: int
    slot: int


# ---- balancing ----------------------------------------------------------------------------------------------------


def balance(load: Sequence[float], *, slots: int, groups: int = 1, nodes: int = 1, ranks: int) -> Placement:
    """A placement of one layer whose ranks receive about the same.

    Where nodes divide the groups of the router, groups stay together, because a token visits few groups and so few
    nodes: groups are packed to nodes, experts copied within nodes, copies packed to ranks. Elsewhere all of it is done
    over all ranks at once. No rank holds an expert twice. Without copies the result is never worse than `contiguous`;
    with them it can be, because copies share evenly: loads 0, 10, 3, 7 on two ranks are perfect as they stand, and no
    placement of six slots is.

    Args:   load: rows that each expert received. slots: experts and copies. groups: `n_group` of the model.
    Raises: ConfigError: sizes do not divide, there are fewer slots than experts, or ranks would hold an expert twice.
    Source: github.com/deepseek-ai/EPLB, README; DeepSeek-V3, arXiv:2412.19437, section 3.4.1.
    """
    experts = len(load)
    _check(experts, slots, groups, nodes, ranks)
    if groups % nodes:
        groups = nodes = 1
    size = experts // groups
    by_group = [sum(load[group * size : (group + 1) * size]) for group in range(groups)]
    found: list[int] = []
    for packed in _pack(by_group, range(groups), nodes):
        here = [expert for group in packed for expert in range(group * size, (group + 1) * size)]
        copies = _replicate([load[expert] for expert in here], slots // nodes, ranks // nodes)
        count = Counter(copies)
        each = [load[here[i]] / count[i] for i in copies]
        for rank in _pack(each, copies, ranks // nodes):
            found += [here[copies[item]] for item in rank]
    best = Placement(tuple(found), ranks)
    plain = Placement.contiguous(experts, ranks) if slots == experts else best
    return min(best, plain, key=lambda placement: placement.imbalance(load))


def _check(experts: int, slots: int, groups: int, nodes: int, ranks: int) -> None:
    if min(experts, slots, groups, nodes, ranks) < 1:
        raise ConfigError(f"{experts} experts, {slots} slots, {groups} groups, {nodes} nodes and {ranks} ranks: "
                          "each must be at least 1.")  # fmt: skip
    for what, size, name, parts in (
        ("experts", experts, "groups", groups),
        ("slots", slots, "ranks", ranks),
        ("ranks", ranks, "nodes", nodes),
    ):
        if size % parts:
            raise ConfigError(f"{what} is {size}, which {parts} {name} do not divide; use a multiple of {parts}.")
    most = experts * (ranks // nodes if groups % nodes == 0 else ranks)
    if not experts <= slots <= most:
        raise ConfigError(f"slots is {slots}; {experts} experts can fill {experts} to {most} slots on {ranks} ranks.")


def _replicate(load: Sequence[float], slots: int, most: int) -> list[int]:
    """The item in each of `slots` slots: all of them once, then again and again the one with the busiest copies."""
    copies, count = list(range(len(load))), [1] * len(load)
    for _ in range(slots - len(load)):
        busiest = max((i for i in range(len(load)) if count[i] < most), key=lambda i: (load[i] / count[i], -i))
        copies.append(busiest)
        count[busiest] += 1
    return copies


def _pack(load: Sequence[float], kinds: Sequence[int], packs: int) -> list[list[int]]:
    """Items in `packs` equally long lists of about equal load: the heaviest first, each to the lightest with room.

    No list has two items of a kind, if no kind has more than `packs` of them.
    """
    room = len(load) // packs
    if room == 1:  # nothing to balance; items stay where they are, so that less has to move
        return [[item] for item in range(packs)]
    found: list[list[int]] = [[] for _ in range(packs)]
    held: list[set[int]] = [set() for _ in range(packs)]
    total = [0.0] * packs
    for item in sorted(range(len(load)), key=lambda i: (-load[i], i)):
        kind, open_ = kinds[item], [p for p in range(packs) if len(found[p]) < room]
        fitting = [p for p in open_ if kind not in held[p]]
        pack = min(fitting or open_, key=lambda p: (total[p], p))
        if not fitting:  # make room in a full list: one of its items goes to the list that has this kind already
            pack, other = _exchange(found, kinds, load, total, held, kind, pack)
            total[pack] -= load[other]
            held[pack].remove(kinds[other])
            found[pack].remove(other)
        found[pack].append(item)
        held[pack].add(kind)
        total[pack] += load[item]
    return found


def _exchange(
    found: list[list[int]], kinds: Sequence[int], load: Sequence[float], total: list[float], held: list[set[int]],
    kind: int, into: int,
) -> tuple[int, int]:  # fmt: skip
    """(list, item of it): the item was added to list `into`, so that its place can go to one of `kind`.

    There is such a list: of at most as many items of `kind` as lists, list `into` has one and this is another. And
    there is such an item: the other list is full and without a double, list `into` is not full.
    """
    pairs = [
        (total[into] + load[item], pack, item)
        for pack in range(len(found))
        if kind not in held[pack]
        for item in found[pack]
        if kinds[item] not in held[into]
    ]
    _, pack, item = min(pairs)
    found[into].append(item)
    held[into].add(kinds[item])
    total[into] += load[item]
    return pack, item


# ---- moves --------------------------------------------------------------------------------------------------------


def settle(old: Placement, new: Placement, *, nodes: int = 1) -> Placement:
    """`new` with its nodes, ranks and slots renamed so that most of what lies right already stays.

    All ranks are alike, so this changes no rank's load, only which one has it. Pairs that share most come first, which
    is near the best renaming but not always the best; the slots within a rank are the best.

    Args: nodes: ranks stay together in groups of ranks / nodes, as `balance` packed them; 1 where it packed globally.
    """
    size = new.ranks // nodes
    found: list[tuple[int, ...]] = [()] * new.ranks
    node_slots = size * new.slots_per_rank
    blocks = [[p.slots[node * node_slots : (node + 1) * node_slots] for node in range(nodes)] for p in (old, new)]
    for at, node in _alike(*blocks):
        pairs = _alike(*([p.on_rank(n * size + i) for i in range(size)] for p, n in ((old, at), (new, node))))
        for mine, its in pairs:
            rank = at * size + mine
            found[rank] = _in_place(old.on_rank(rank), new.on_rank(node * size + its))
    return Placement(tuple(expert for rank in found for expert in rank), new.ranks)


def _alike(old: Sequence[tuple[int, ...]], new: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Pairs (index of old, index of new), each index once; those with most in common first."""
    have = [Counter(part) for part in old]
    holders: dict[int, list[int]] = {}
    for i, count in enumerate(have):
        for expert in count:
            holders.setdefault(expert, []).append(i)
    common: Counter[tuple[int, int]] = Counter()
    for j, part in enumerate(new):
        for expert, times in Counter(part).items():
            for i in holders.get(expert, ()):
                common[i, j] += min(times, have[i][expert])
    free_old, free_new, pairs = set(range(len(old))), set(range(len(new))), []
    for i, j in sorted(common, key=lambda pair: (-common[pair], abs(pair[0] - pair[1]), pair)):
        if i in free_old and j in free_new:
            pairs.append((i, j))
            free_old.remove(i)
            free_new.remove(j)
    return pairs + list(zip(sorted(free_old), sorted(free_new), strict=True))


def _in_place(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """`new` in an order in which whatever `old` has, too, stays in its slot."""
    arriving = Counter(new)
    found: list[int | None] = []
    for expert in old:
        stays = arriving[expert] > 0
        arriving[expert] -= stays
        found.append(expert if stays else None)
    rest = iter(sorted(arriving.elements()))
    return tuple(next(rest) if expert is None else expert for expert in found)


def plan_moves(old: Mapping[int, Placement], new: Mapping[int, Placement]) -> list[Move]:
    """What must be copied to come from `old` to `new`, by layer and slot: one move for each slot that changes.

    `settle` first, and there are few. A rank that has the expert already copies its own; else the holder that has sent
    least in this plan sends. Sources are read as they were before any move: a slot may be both source and target.
    """
    moves: list[Move] = []
    sent: Counter[int] = Counter()
    for layer in sorted(new):
        before, after = old[layer], new[layer]
        _check_same_shape(layer, before, after)
        for slot, expert in enumerate(after.slots):
            if before.slots[slot] == expert:
                continue
            target = after.rank_of(slot)
            holders = [before.rank_of(replica) for replica in before.replicas[expert]]
            source = target if target in holders else min(holders, key=lambda rank: (sent[rank], rank))
            sent[source] += source != target
            moves.append(Move(layer, expert, source, target, slot))
    return moves


def _check_same_shape(layer: int, old: Placement, new: Placement) -> None:
    before, after = ((p.experts, len(p.slots), p.ranks) for p in (old, new))
    if before != after:
        raise ConfigError(
            f"layer {layer} goes from {before} to {after} experts, slots and ranks; moves keep these, use a restart."
        )
