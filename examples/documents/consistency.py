"""Is a term of a document translated as it was before? See the README.

    python consistency.py --train PREFIX --source de --target en \
        --documents test.documents SOURCE HYPOTHESES [HYPOTHESES ...] --reference REFERENCE

All texts are tokenised, a sentence a line (`text/` in the data of preprocess.sh). A term is a
source word of more than six letters. Where it occurs again in a document, its translation there is
compared with that of its last occurrence; told is the share of equal ones, of every translation
and of the reference. A term's translation in a sentence is the target word that goes with it most
(Dice's coefficient in the training text); where no word of the sentence goes with it, the
occurrence does not count.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

LETTERS = 6  # a term has more
LEAST_DICE = 0.1
MOST_COMMON = 0.05  # a word in more of the sentences is no term's translation: articles, marks

Table = dict[str, dict[str, float]]


def lines(path: Path) -> list[list[str]]:
    """The words of every line, in lower case."""
    return [line.lower().split() for line in path.read_text(encoding="utf-8").splitlines()]


def is_term(word: str) -> bool:
    """Whether a source word counts."""
    return len(word) > LETTERS and word.isalpha()


def table_of(pairs: Iterable[tuple[Sequence[str], Sequence[str]]], terms: set[str]) -> Table:
    """Dice's coefficient of each of the terms with the target words that go with it."""
    sources, targets = Counter[str](), Counter[str]()
    together: dict[str, Counter[str]] = defaultdict(Counter)
    sentences = 0
    for source, target in pairs:
        sentences += 1
        words = set(target)
        targets.update(words)
        for term in terms & set(source):
            sources[term] += 1
            together[term].update(words)
    table: Table = {}
    for term, counts in together.items():
        dice = {
            word: 2 * count / (sources[term] + targets[word])
            for word, count in counts.items()
            if targets[word] <= max(MOST_COMMON * sentences, 5)
        }
        table[term] = {word: value for word, value in dice.items() if value >= LEAST_DICE}
    return table


def translation(term: str, sentence: Sequence[str], table: Table) -> str | None:
    """The word of a target sentence that goes with a term most; None if none does."""
    known = table.get(term, {})
    found = [(known[word], word) for word in sentence if word in known]
    return max(found)[1] if found else None


def repeated(sources: Sequence[Sequence[str]], names: Sequence[str]) -> Iterator[tuple]:
    """Terms that come again in their document: the term, where it was last, where it is."""
    last: dict[str, int] = {}
    for number, (source, name) in enumerate(zip(sources, names, strict=True)):
        if number > 0 and names[number - 1] != name:
            last.clear()
        for term in {word for word in source if is_term(word)}:
            if term in last:
                yield term, last[term], number
            last[term] = number


def consistency(
    places: Iterable[tuple[str, int, int]], targets: Sequence[Sequence[str]], table: Table
) -> tuple[int, int]:
    """How many repeated terms are translated as before, and of how many that can be told."""
    same = told = 0
    for term, before, number in places:
        words = [translation(term, targets[place], table) for place in (before, number)]
        if None not in words:
            told += 1
            same += words[0] == words[1]
    return same, told


def main() -> None:
    """Print a line for every translation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, metavar="PREFIX")
    parser.add_argument("--source", required=True, metavar="LANG")
    parser.add_argument("--target", required=True, metavar="LANG")
    parser.add_argument("--documents", type=Path, required=True, metavar="FILE")
    parser.add_argument("--reference", type=Path, required=True, metavar="FILE")
    parser.add_argument("text", type=Path, metavar="SOURCE")
    parser.add_argument("hypotheses", type=Path, nargs="*", metavar="HYPOTHESES")
    args = parser.parse_args()
    sources = lines(args.text)
    names = args.documents.read_text(encoding="utf-8").splitlines()
    texts = [(path, lines(path)) for path in (args.reference, *args.hypotheses)]
    for path, text in [(args.documents, names), *texts]:
        if len(text) != len(sources):
            parser.error(f"{path} has {len(text)} lines, {args.text} has {len(sources)}")
    places = list(repeated(sources, names))
    training = (Path(f"{args.train}.{language}") for language in (args.source, args.target))
    pairs = zip(*map(lines, training), strict=True)
    table = table_of(pairs, {term for term, _, _ in places})
    for path, text in texts:
        same, told = consistency(places, text, table)
        share = f"{100 * same / told:.1f} %" if told else "none can be told"
        print(f"{path.name}: {share} ({same:,} of {told:,}; {len(places):,} repeated terms)")


if __name__ == "__main__":
    main()
