"""The agreement task: "it" is er, sie or es, and what decides was said some sentences ago.

    the door is old . | anna sings today . | they are happy . | it is green .
    die Tür ist alt . | Anna singt heute . | sie sind froh .  | sie ist grün .

usage: agreement.py FOLDER          writes train, valid and test (.en, .de, .documents)

In training the noun stands 0 to 4 sentences before "it" (0: in the same sentence); in the test 0 to
8, 150 documents for each, with other templates, behind sentences about a noun of another gender.
The test is contrastive: each of its documents ends in a sentence with "it", whose translations with
er, sie and es differ in the pronoun alone.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from words import ADJECTIVES, ARTICLES, MANY, NOUNS_OF, PEOPLE, TIMES, VERBS, pairs

PRONOUNS = tuple(NOUNS_OF)
TRAINED, TESTED = 4, 8  # the longest distances
SIZES = {"train": 12_000, "valid": 200}
TEST_DOCUMENTS = 150  # for every distance
Sentence = tuple[str, str]

# {n} is the noun, {a} and {b} adjectives, {p} somebody; in German {N} is the noun with its article,
# {M} that in the accusative, {I} the pronoun
INTRODUCTIONS = {
    "train": [
        ("the {n} is {a} .", "{N} ist {A} ."),
        ("here is the {n} .", "hier ist {N} ."),
        ("{p} sees the {n} .", "{P} sieht {M} ."),
        ("now the {n} is here .", "jetzt ist {N} hier ."),
    ],
    "test": [
        ("here the {n} is {a} .", "hier ist {N} {A} ."),
        ("now {p} sees the {n} .", "jetzt sieht {P} {M} ."),
    ],
}
FOLLOWERS = {
    "train": [("it is {a} .", "{I} ist {A} ."), ("it is here .", "{I} ist hier ."),
              ("now it is {a} .", "jetzt ist {I} {A} .")],
    "test": [("it is {a} here .", "{I} ist hier {A} ."),
             ("it is {a} again .", "{I} ist wieder {A} .")],
}  # fmt: skip
TOGETHER = {
    "train": [("the {n} is {a} and it is {b} .", "{N} ist {A} und {I} ist {B} .")],
    "test": [("the {n} is here and it is {b} .", "{N} ist hier und {I} ist {B} .")],
}


class Writer:
    """Makes sentences and documents.

    Args:
        split: whose templates are taken.
        seed: of the random choices.
    """

    def __init__(self, split: str, seed: int) -> None:
        self.kind = "test" if split == "test" else "train"
        self.choose = random.Random(seed)

    def noun(self, gender: str) -> tuple[str, str, str]:
        """A noun: English, and German with its gender."""
        return (*self.choose.choice(NOUNS_OF[gender]), gender)

    def fill(self, templates: dict[str, list[Sentence]], noun: tuple[str, str, str]) -> Sentence:
        """A sentence about a noun."""
        english, german, gender = noun
        (a, A), (b, B) = self.choose.sample(pairs(ADJECTIVES), 2)
        p, P = self.choose.choice(pairs(PEOPLE))
        nominative, accusative = ARTICLES[gender]
        source, target = self.choose.choice(templates[self.kind])
        words = dict(
            n=english, a=a, b=b, p=p, A=A, B=B, P=P, I=gender,
            N=f"{nominative} {german}", M=f"{accusative} {german}",
        )  # fmt: skip
        return source.format(**words), target.format(**words)

    def between(self) -> Sentence:
        """A sentence about something else."""
        if self.choose.random() < 0.4:
            return self.choose.choice(pairs(MANY))
        parts = [self.choose.choice(pairs(text)) for text in (PEOPLE, VERBS, TIMES)]
        english, german = (" ".join(words) for words in zip(*parts))
        return f"{english} .", f"{german} ."

    def about(self, noun: tuple[str, str, str], distance: int) -> Iterator[Sentence]:
        """Sentences from a noun to its "it"."""
        if distance == 0:
            yield self.fill(TOGETHER, noun)
            return
        yield self.fill(INTRODUCTIONS, noun)
        for _ in range(distance - 1):
            yield self.between()
        yield self.fill(FOLLOWERS, noun)

    def training_document(self) -> list[Sentence]:
        """Some nouns, one after the other."""
        document: list[Sentence] = []
        for _ in range(self.choose.randint(2, 4)):
            noun = self.noun(self.choose.choice(PRONOUNS))
            document += self.about(noun, self.choose.randint(0, TRAINED))
            document += [self.between() for _ in range(self.choose.randint(0, 1))]
        return document

    def test_document(self, gender: str, distance: int) -> list[Sentence]:
        """A noun of another gender, then the one that counts; "it" is in the last sentence."""
        other = self.noun(self.choose.choice([g for g in PRONOUNS if g != gender]))
        document = list(self.about(other, self.choose.randint(1, 2)))
        return [*document, *self.about(self.noun(gender), distance)]


def documents(split: str) -> Iterator[tuple[str, list[Sentence]]]:
    """A split's documents with their names; in the test the distance is a part of them."""
    writer = Writer(split, {"train": 1, "valid": 2, "test": 3}[split])
    if split != "test":
        for number in range(SIZES[split]):
            yield f"{number}", writer.training_document()
        return
    for distance in range(TESTED + 1):
        for number in range(TEST_DOCUMENTS):
            gender = PRONOUNS[number % 3]
            yield f"{distance}-{number}", writer.test_document(gender, distance)


def main() -> None:
    """Write the three splits."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        for name, sentences in documents(split):
            for english, german in sentences:
                for column, line in zip(columns, (english, german, name)):
                    column.append(line)
        for ending, column in zip(("en", "de", "documents"), columns):
            path = folder / f"{split}.{ending}"
            path.write_text("\n".join(column) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
