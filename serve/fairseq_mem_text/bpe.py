"""Learns the merges that subword-nmt learns, the same ones in the same order, much faster.

subword-nmt keeps each word as a tuple and looks at all pairs for each merge. Here all words lie
in one array of symbols, linked to their neighbours, so that a merge is a few numpy operations on
the places where it happens, and a heap holds the frequent pairs.

Each symbol comes about by one merge only: until something is merged across its ends, the same
letters are merged in the same order wherever they stand. So the places of a symbol are those of
the merge that made it. (Unless a word has subword-nmt's mark for its end in it: see `learnable`.)
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

END_OF_WORD = "</w>"
NONE = -1  # no neighbour; no symbol any more
SHIFT = 32  # a pair of symbols as one number: the left one's number in the upper bits


class Learner:
    """All words as symbols, and the counts of their pairs.

    `P` positions: all words' characters behind each other. `symbol`, `following`, `previous` and
    `word` have the shape `P`; a position whose symbol was merged into the one before has NONE as
    its symbol.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        # Sorting is not needed: neither here nor in subword-nmt does it change the merges.
        lengths = np.fromiter(map(len, counts), np.int32, len(counts))
        self.count = np.fromiter(counts.values(), np.int64, len(counts))
        last = np.cumsum(lengths, dtype=np.int64) - 1
        self.first = (last + 1 - lengths).astype(np.int32)  # of each word
        letters = np.frombuffer("".join(counts).encode("utf-32-le"), np.uint32)
        self.word = np.repeat(np.arange(len(counts), dtype=np.int32), lengths)

        ends = np.zeros(len(letters), bool)
        ends[last] = True
        kinds, symbol = np.unique(letters.astype(np.int64) << 1 | ends, return_inverse=True)
        self.symbol = symbol.astype(np.int32)
        self.names = [chr(kind >> 1) + END_OF_WORD * (kind & 1) for kind in kinds.tolist()]
        self.known = set(self.names)
        self.descending = [descending(name) for name in self.names]

        self.following = np.arange(1, len(letters) + 1, dtype=np.int32)
        self.following[last] = NONE
        self.previous = np.arange(-1, len(letters) - 1, dtype=np.int32)
        self.previous[self.first] = NONE

        order = np.argsort(self.symbol, kind="stable").astype(np.int32)
        sizes = np.bincount(self.symbol, minlength=len(self.names))
        # Where each symbol is, or was.
        self.places: list[Array] = np.split(order, np.cumsum(sizes)[:-1])

        left = np.flatnonzero(self.following != NONE)
        pairs = self.symbol[left].astype(np.int64) << SHIFT | self.symbol[left + 1]
        # As in subword-nmt: `stats` lacks what is rare, `all_stats` is only sometimes up to date.
        self.stats = dict(summed(pairs, self.count[self.word[left]]))
        self.all_stats = dict(self.stats)
        self.heap: list[tuple[int, tuple[int, ...], tuple[int, ...], int]] = []
        self.threshold = 0.0

    # ------------------------------------------------------------ which pair is next

    def push(self, pair: int) -> None:
        frequency = self.stats[pair]
        if frequency >= self.threshold:
            left, right = pair >> SHIFT, pair & (1 << SHIFT) - 1
            entry = (-frequency, self.descending[left], self.descending[right], pair)
            heapq.heappush(self.heap, entry)

    def push_all(self) -> None:
        self.heap = []
        for pair in self.stats:
            self.push(pair)

    def most_frequent(self) -> int | None:
        """The pair with the highest count; of several, the one that is last in the alphabet."""
        while self.heap:
            frequency, _, _, pair = self.heap[0]
            if self.stats.get(pair) == -frequency:
                return pair
            heapq.heappop(self.heap)  # its count has changed since
        return None

    def prune(self) -> None:
        for pair, frequency in list(self.stats.items()):
            if frequency < self.threshold:
                del self.stats[pair]
                if frequency < 0:  # a change of a count that had been pruned
                    self.all_stats[pair] = self.all_stats.get(pair, 0) + frequency
                else:
                    self.all_stats[pair] = frequency

    def merges(self, wanted: int, min_frequency: int = 2) -> Iterator[tuple[str, str]]:
        """The merges, in their order; fewer than `wanted` if no pair is left."""
        if not self.stats:
            return
        self.threshold = max(self.stats.values()) / 10
        self.push_all()
        for done in range(wanted):
            pair = self.most_frequent()
            if pair is None:  # all that is frequent is merged: look at what was pruned
                self.prune()
                self.stats = dict(self.all_stats)
                highest = max(self.stats.values())
                self.threshold = highest * done / (done + 10000.0)
                self.prune()
                self.push_all()
                pair = self.most_frequent()
            if pair is None or self.stats[pair] < min_frequency:
                return
            left, right = pair >> SHIFT, pair & (1 << SHIFT) - 1
            yield self.names[left], self.names[right]
            self.merge(left, right)
            if done % 100 == 0:
                self.prune()

    # ------------------------------------------------------------ a merge

    def find(self, left: int, right: int) -> tuple[Array, Array]:
        """The positions of the left and of the right symbol wherever they are a pair."""
        by_left = len(self.places[left]) <= len(self.places[right])
        searched = left if by_left else right
        places = self.places[searched]
        places = places[self.symbol[places] == searched]
        self.places[searched] = places
        neighbours = (self.following if by_left else self.previous)[places]
        # NONE is the last position, whose symbol may be any.
        found = (neighbours != NONE) & (self.symbol[neighbours] == (right if by_left else left))
        places, neighbours = places[found], neighbours[found]
        return (places, neighbours) if by_left else (neighbours, places)

    def merge(self, left: int, right: int) -> None:
        starts, ends = self.find(left, right)
        if left == right:
            starts = every_second(np.sort(starts), self.following)
            ends = self.following[starts]
        name, merged = self.names[left] + self.names[right], len(self.names)
        assert name not in self.known, f"{name!r} comes about in two ways"
        self.known.add(name)
        self.names.append(name)
        self.descending.append(descending(name))
        self.places.append(starts)
        counts = self.count[self.word[starts]]
        before, after = self.previous[starts], self.following[ends]
        has_before, has_after = before != NONE, after != NONE
        old_before = self.symbol[before[has_before]].astype(np.int64)

        self.symbol[starts], self.symbol[ends] = merged, NONE
        self.following[starts] = after
        self.previous[after[has_after]] = starts[has_after]

        # What comes after belongs to the next merged symbol if there is one: no pair twice.
        has_after[has_after] = self.symbol[after[has_after]] != merged
        new_before = self.symbol[self.previous[starts[has_before]]].astype(np.int64)
        symbol_after = self.symbol[after[has_after]].astype(np.int64)
        before_counts, after_counts = counts[has_before], counts[has_after]
        for pairs, pair_counts in (
            ((old_before << SHIFT | left, right << SHIFT | symbol_after), -1),
            ((new_before << SHIFT | merged, merged << SHIFT | symbol_after), 1),
        ):
            both = np.concatenate((before_counts, after_counts)) * pair_counts
            for changed, change in summed(np.concatenate(pairs), both):
                self.stats[changed] = self.stats.get(changed, 0) + change
                self.push(changed)
        self.stats[left << SHIFT | right] = 0


# ---------------------------------------------------------------- helpers


def learnable(words: Iterable[str]) -> bool:
    """Whether the merges are subword-nmt's: no word looks like the end of another one."""
    return not any(END_OF_WORD in word for word in words)


def descending(name: str) -> tuple[int, ...]:
    """A key that sorts names from the last in the alphabet to the first."""
    return (*(-ord(letter) for letter in name), 1)


def summed(pairs: Array, counts: Array) -> Iterator[tuple[int, int]]:
    """Each different pair with the sum of its counts."""
    if not len(pairs):
        return iter(())
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    begins = np.flatnonzero(np.concatenate(([True], pairs[1:] != pairs[:-1])))
    sums = np.add.reduceat(counts[order], begins)
    return zip(pairs[begins].tolist(), sums.tolist())


def every_second(starts: Array, following: Array) -> Array:
    """Of `a a a a a`, given the first four positions: the first and the third."""
    in_run = np.concatenate(([False], following[starts[:-1]] == starts[1:]))
    number = np.arange(len(starts))
    run_begin = np.maximum.accumulate(np.where(in_run, 0, number))
    chosen: Array = starts[(number - run_begin) % 2 == 0]
    return chosen
