"""Learns the merges that subword-nmt learns, the same ones in the same order, much faster.

subword-nmt keeps each word as a tuple and looks at all pairs for each merge. Here all words lie
in one array of symbols, linked to their neighbours, so that a merge is a few numpy operations on
the places where it happens, and a heap holds the frequent pairs.

subword-nmt's counts are not always those of the text: when a merge makes a symbol that another
merge has made before (`th e` after `t he`), pairs are counted twice, which changes what is merged
next. Such merges, those of a symbol with itself, and those of pairs that were counted wrongly are
therefore done word by word, with the counts that subword-nmt would have.

Imported by its path, as corpus.py is run: nothing of this package is imported here.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

END_OF_WORD = "</w>"
NONE = -1  # no neighbour; no symbol any more
SHIFT = 32  # a pair of symbols as one number: the left one's number in the upper bits


def pair_number(left: int, right: int) -> int:
    return left << SHIFT | right


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
        self.number = {name: number for number, name in enumerate(self.names)}
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
        # How many more times subword-nmt believes a pair to be in a word than it is.
        self.wrong: defaultdict[int, dict[int, int]] = defaultdict(dict)

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
        name = self.names[left] + self.names[right]
        merged = self.number.get(name)
        pair = pair_number(left, right)
        starts, ends = self.find(left, right)
        if merged is None:
            merged = self.number[name] = len(self.names)
            self.names.append(name)
            self.descending.append(descending(name))
            self.places.append(starts)
            everywhere = left != right and pair not in self.wrong
        else:
            everywhere = False
        if everywhere:
            self.merge_everywhere(left, right, merged, starts, ends)
        else:
            self.merge_by_word(left, right, merged, starts)
        self.stats[pair] = 0

    def merge_everywhere(
        self, left: int, right: int, merged: int, starts: Array, ends: Array
    ) -> None:
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

    def merge_by_word(self, left: int, right: int, merged: int, starts: Array) -> None:
        pair, touched = pair_number(left, right), set[int]()
        actual = Counter(self.word[starts].tolist())
        wrong = self.wrong.pop(pair, {})
        still_wrong, moved = {}, []
        for word in sorted(actual.keys() | wrong.keys()):
            if actual[word] + wrong.get(word, 0) < 1:
                if actual[word]:
                    still_wrong[word] = -actual[word]
                continue
            positions = list(self.positions_of(word))
            old = self.symbol[positions].tolist()
            kept = kept_positions(old, left, right)
            new = [merged if at + 1 not in kept and at + 1 < len(old) else old[at] for at in kept]
            believed = believed_changes(old, new, left, right, merged)
            for changed, change in believed.items():
                self.stats[changed] = self.stats.get(changed, 0) + change * int(self.count[word])
            touched.update(believed)
            changes = Counter(pairs_of(new))
            changes.subtract(pairs_of(old))
            changes[pair] = 0  # counted anew from here
            for changed in believed.keys() | changes.keys():
                error = believed.get(changed, 0) - changes[changed]
                if changed == pair:
                    still_wrong[word] = error
                elif error:
                    self.wrong[changed][word] = self.wrong[changed].get(word, 0) + error
            self.relink([positions[at] for at in kept], positions, new)
            moved += [positions[at] for at, symbol in zip(kept, new) if symbol == merged]
        still_wrong = {word: error for word, error in still_wrong.items() if error}
        if still_wrong:
            self.wrong[pair] = still_wrong
        places = np.concatenate((self.places[merged], np.array(moved, np.int32)))
        self.places[merged] = np.unique(places)
        for changed in touched - {pair}:
            self.push(changed)

    def positions_of(self, word: int) -> Iterator[int]:
        position = int(self.first[word])
        while position != NONE:
            yield position
            position = int(self.following[position])

    def relink(self, kept: list[int], positions: list[int], symbols: list[int]) -> None:
        self.symbol[positions] = NONE
        self.symbol[kept] = symbols
        self.previous[kept] = [NONE, *kept[:-1]]
        self.following[kept] = [*kept[1:], NONE]


# ---------------------------------------------------------------- helpers


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


def kept_positions(old: list[int], left: int, right: int) -> list[int]:
    """The indices that remain when every `left right` becomes one symbol, from left to right."""
    kept, at = [], 0
    while at < len(old):
        kept.append(at)
        at += 2 if old[at] == left and old[at + 1 : at + 2] == [right] else 1
    return kept


def pairs_of(symbols: list[int]) -> list[int]:
    return [pair_number(*pair) for pair in itertools.pairwise(symbols)]


def believed_changes(
    old: list[int], new: list[int], left: int, right: int, merged: int
) -> dict[int, int]:
    """How subword-nmt changes its counts when `old` becomes `new`, of one occurrence of the word.

    Every `merged` in the new word counts as new, though it may have been there.
    """
    changes: defaultdict[int, int] = defaultdict(int)
    at, size = 0, len(old)
    while at < size - 1:
        if old[at] != left or old[at + 1] != right:
            at += 1
            continue
        if at:
            changes[pair_number(old[at - 1], left)] -= 1
        if at < size - 2:
            comes_again = at < size - 3 and old[at + 2] == left and old[at + 3] == right
            if not comes_again:  # otherwise counted with the next one
                changes[pair_number(right, old[at + 2])] -= 1
        at += 2
    for at, symbol in enumerate(new):
        if symbol == merged:
            if at:
                changes[pair_number(new[at - 1], merged)] += 1
            if at < len(new) - 1 and new[at + 1] != merged:
                changes[pair_number(merged, new[at + 1])] += 1
    return changes
