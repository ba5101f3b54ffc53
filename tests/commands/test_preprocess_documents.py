"""preprocess.sh --documents: empty lines end documents."""

import re
from itertools import pairwise

import pytest
from fairseq_mem_text.checks import check_documents
from fairseq_mem_text.errors import TextError
from helpers.preprocessing import preprocess, refused, run_corpus, write_pair

pytestmark = pytest.mark.cli


def lines_of(path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_every_kept_pair_has_its_document(tmp_path):
    """Over the border of two chunks; repeated and dropped pairs leave the order intact."""
    documents = [[f"satz {n} {k}" for k in range(n % 7 + 1)] for n in range(400)]
    documents[3][0] = documents[1][0]  # repeated
    documents[5][1] = "wort " * 300  # too long
    text = "\n" + "\n\n\n".join("\n".join(document) for document in documents) + "\n\n"
    for language in ("de", "en"):
        (tmp_path / f"raw.{language}").write_text(text, encoding="utf-8")
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--workers", 2, "--clean",
        "--dedup", "--documents", tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = lines_of(tmp_path / "tok.de")
    names = lines_of(tmp_path / "tok.documents")
    assert len(kept) == len(names) == sum(map(len, documents)) - 2
    expected = [n for n, document in enumerate(documents) for _ in document]
    del expected[sum(map(len, documents[:5])) + 1]
    del expected[sum(map(len, documents[:3]))]
    assert [line.split()[1] for line in kept] == [str(number) for number in expected]
    same = [a == b for a, b in pairwise(names)]
    assert same == [a == b for a, b in pairwise(expected)]
    assert len({*names}) == len({*expected})
    counts = (tmp_path / "tok.counts").read_text()
    assert counts.startswith(f"{sum(map(len, documents)):,} pairs read, {len(kept):,} kept;")
    assert "empty lines" not in counts


def test_from_raw_text_to_data(tmp_path):
    for name, count in (("train", 40), ("valid", 9), ("test", 6)):
        prefix = write_pair(tmp_path / "raw", name, count)
        for language in ("de", "en"):
            path = prefix.with_name(f"{name}.{language}")
            lines = lines_of(path)
            lines[3:3] = [""]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = preprocess(tmp_path / "raw", tmp_path / "bin", "--documents", "--max-ratio", "3")
    assert done.returncode == 0, done.stderr
    assert "train: 2 documents" in done.stdout
    assert lines_of(tmp_path / "bin" / "test.documents") == ["1"] * 3 + ["2"] * 3
    kept = len(lines_of(tmp_path / "bin" / "text" / "train.de"))
    assert len(lines_of(tmp_path / "bin" / "train.documents")) == kept
    assert "documents yes" in lines_of(tmp_path / "bin" / "settings.txt")


@pytest.mark.parametrize("german, english, says", [
    ("a\n\nb\n", "a\nb\nc\n", "train.de, line 2 is empty and that of"),
    ("a\nb\nc\n", "a\nb\n\n", "train.en, line 3 is empty and that of"),
    ("a\nb\n", "a\nb\n", "has no empty line; with --documents one ends each document"),
    ("\n\n", "\n\n", "has nothing but empty lines"),
])  # fmt: skip
def test_documents_that_are_none(tmp_path, german, english, says):
    paths = [tmp_path / "train.de", tmp_path / "train.en"]
    for path, text in zip(paths, (german, english), strict=True):
        path.write_text(text)
    with pytest.raises(TextError, match=re.escape(says)):
        check_documents([str(path) for path in paths], some=True)


def test_a_refusal_leaves_nothing(tmp_path):
    for name in ("train", "valid", "test"):
        write_pair(tmp_path / "raw", name, 3)
    done = preprocess(tmp_path / "raw", tmp_path / "bin", "--documents")
    refused(done, "train.de has no empty line; with --documents one ends each document")
    assert not (tmp_path / "bin").exists()
