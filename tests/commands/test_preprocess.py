"""preprocess.sh: the libraries' own bytes, made once, and read by fairseq as they were made."""

from pathlib import Path

import pytest
from fairseq_mem_text.lines import CHUNK_LINES
from fairseq_mem_text.workers import in_order
from helpers.preprocessing import (
    library,
    preprocess,
    refused,
    replace_line,
    run_corpus,
    write_pair,
)

# ---------------------------------------------------------------- the same bytes


def test_equals_the_libraries_own_commands(tmp_path):
    count = 2 * CHUNK_LINES + 345  # several chunks, the last one not full
    prefix = write_pair(tmp_path, "train", count)
    # Windows line ends, and no newline at the very end.
    german = Path(f"{prefix}.de").read_bytes().replace(b"Ende\n", b"Ende\r\n").rstrip(b"\n")
    Path(f"{prefix}.de").write_bytes(german)
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--workers", 2,
        f"{prefix}.de", f"{prefix}.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for language in ("de", "en"):
        expected = library(
            "sacremoses", "-l", language, "-j", 1, "-q", "normalize", "tokenize", "-a",
            text=Path(f"{prefix}.{language}").read_bytes(),
        )  # fmt: skip
        tokenized = (tmp_path / f"tok.{language}").read_bytes()
        assert tokenized == expected
        assert tokenized.count(b"\n") == count

    files = [tmp_path / "tok.de", tmp_path / "tok.en"]
    run_corpus("learn-bpe", "--merges", 200, "--workers", 2, "--output", tmp_path / "code", *files)
    library(
        "subword-nmt", "learn-joint-bpe-and-vocab", "-s", 200, "-o", tmp_path / "expected_code",
        "--write-vocabulary", tmp_path / "v1", tmp_path / "v2", "-i", *files, text=b"",
    )  # fmt: skip
    assert (tmp_path / "code").read_bytes() == (tmp_path / "expected_code").read_bytes()

    for file in files:
        done = run_corpus(
            "apply-bpe", "--codes", tmp_path / "code", "--workers", 2, file, f"{file}.bpe"
        )
        assert done.returncode == 0, done.stderr
        expected = library(
            "subword-nmt", "apply-bpe", "-c", tmp_path / "code", text=file.read_bytes()
        )
        assert Path(f"{file}.bpe").read_bytes() == expected


def test_a_byte_order_mark_is_no_word(tmp_path):
    """At the start of each file; inside a text it is a character like others."""
    texts = {"de": "eins\n\ufeffzwei drei\n", "en": "one\ntwo\n"}
    for language, text in texts.items():
        (tmp_path / f"raw.{language}").write_text("\ufeff" + text, encoding="utf-8")
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en",
        tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tok.de").read_text(encoding="utf-8") == "eins\n\ufeff zwei drei\n"
    assert (tmp_path / "tok.en").read_text(encoding="utf-8") == "one\ntwo\n"


def test_only_a_few_chunks_are_in_memory():
    taken = []

    class Pool:
        def submit(self, work, chunk):
            class Done:
                def result(self):
                    return work(chunk)

            return Done()

    def chunks():
        for number in range(100):
            taken.append(number)
            yield number

    for given, number in enumerate(in_order(Pool(), lambda chunk: chunk, chunks(), 2)):
        assert number == given
        assert len(taken) - given <= 8


def test_cleaning_counts_each_rule(tmp_path):
    pairs = [
        ("ein Haus", "a house"),
        ("", "nothing"),
        ("a b c d e f", "a b c d e f"),
        ("a b c d", "a b"),
        ("a b c", "a b"),
    ]
    for column, language in enumerate(("de", "en")):
        lines = "".join(pair[column] + "\n" for pair in pairs)
        (tmp_path / f"raw.{language}").write_text(lines)
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--clean", "--max-words", 5,
        tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tok.de").read_text() == "ein Haus\na b c\n"
    assert (tmp_path / "tok.en").read_text() == "a house\na b\n"
    assert (tmp_path / "tok.counts").read_text() == (
        "5 pairs read, 2 kept; dropped: 1 longer than 5, 1 of a length ratio above 1.5, "
        "1 shorter than 1\n"
    )


def test_nothing_left_after_cleaning(tmp_path):
    (tmp_path / "raw.de").write_text("a b c d\n")
    (tmp_path / "raw.en").write_text("a\n")
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--clean",
        tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    refused(done, "no pair is left of 1", "widen the limits")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.de", "raw.en"]


def test_nothing_to_learn_merges_from(tmp_path):
    """The file of none would be no merges for subword-nmt, which then ends the workers."""
    (tmp_path / "tok").write_text("ab cd\n")
    done = run_corpus("learn-bpe", "--merges", 5, "--output", tmp_path / "code", tmp_path / "tok")
    refused(done, "BPE can't be learned", "give more text")
    assert not (tmp_path / "code").exists()


# ---------------------------------------------------------------- the whole script


@pytest.mark.cli
def test_data_is_complete_and_made_once(raw, tmp_path):
    out = tmp_path / "data with a space"
    replace_line(raw / "valid.de", 2, "fu\u0308r wen?")
    done = preprocess(raw, out)
    assert done.returncode == 0, done.stderr
    assert "train: 300 pairs read, 300 kept" in done.stdout
    assert "+ fairseq-preprocess" in done.stdout  # commands are shown
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            assert (out / f"{split}.de-en.{language}.bin").stat().st_size > 0
    # Validation and test text stay line by line.
    assert (out / "text/test.bpe.en").read_text().count("\n") == 20
    assert (out / "dict.de.txt").read_bytes() == (out / "dict.en.txt").read_bytes()
    assert not (out / "partial").exists()

    settings = (out / "settings.txt").read_text()
    assert "\nnfc yes\n" in settings
    assert (
        "für" in (out / "text/valid.de").read_text() and "u\u0308" in (raw / "valid.de").read_text()
    )
    refused(preprocess(raw, out, "--no-nfc"), "other options or text", "--redo")
    # Data of before characters were composed stays as it is.
    (out / "settings.txt").write_text(settings.replace("nfc yes\n", ""))
    older = preprocess(raw, out)
    assert older.returncode == 0 and "made before characters were composed" in older.stdout
    assert "nothing to do" in preprocess(raw, out, "--no-nfc").stdout
    assert "nfc" not in (out / "settings.txt").read_text()
    (out / "settings.txt").write_text(settings)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = preprocess(raw, out)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    refused(preprocess(raw, out, "--bpe", 50), "other options or text", "--redo")
    with open(raw / "train.de", "a") as german, open(raw / "train.en", "a") as english:
        german.write("Noch ein Satz.\n")
        english.write("One more sentence.\n")
    changed = preprocess(raw, out)
    refused(changed, "other options or text", "--redo")
    assert "asked for train.de" in changed.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    redone = preprocess(raw, out, "--redo")
    assert redone.returncode == 0, redone.stderr
    assert "301 kept" in (out / "text/train.counts").read_text()


@pytest.mark.cli
def test_fairseq_treats_raw_text_as_the_training_text_was(raw, tmp_path):
    from fairseq.data.encoders.moses_tokenizer import MosesTokenizer, MosesTokenizerConfig
    from fairseq.data.encoders.subword_nmt_bpe import SubwordNMTBPE, SubwordNMTBPEConfig

    out = tmp_path / "data"
    done = preprocess(raw, out, "--no-normalize", "--separate")
    assert done.returncode == 0, done.stderr
    moses = MosesTokenizer(MosesTokenizerConfig(source_lang="de", target_lang="en"))
    bpe = SubwordNMTBPE(SubwordNMTBPEConfig(bpe_codes=str(out / "code")))
    raw_lines = (raw / "test.de").read_text(encoding="utf-8").split("\n")[:-1]
    prepared = (out / "text/test.bpe.de").read_text(encoding="utf-8").split("\n")[:-1]
    assert [bpe.encode(moses.encode(line)) for line in raw_lines] == prepared
    # --separate: each language has its own dictionary.
    assert (out / "dict.de.txt").read_bytes() != (out / "dict.en.txt").read_bytes()
