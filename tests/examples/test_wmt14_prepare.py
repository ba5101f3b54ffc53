"""prepare.sh of the WMT-14 example: what it takes of the archives, and its options."""

import json
import re
import subprocess

import pytest
from helpers.commands import ROOT
from helpers.preprocessing import ENGLISH, GERMAN, refused
from helpers.wmt14 import (
    ARCHIVES,
    COMMONCRAWL,
    EUROPARL,
    NEWS,
    PREPARE,
    RAW,
    TEST,
    both,
    joined,
    pack,
    succeeded,
    text,
)

# ---------------------------------------------------------------- the whole way


@pytest.mark.cli
def test_from_a_server_to_binarised_data(world):
    world.without_cache()
    # The first run ends between its two steps.
    succeeded(world.raw())
    done = succeeded(world.prepare("--dedup"))
    assert "raw is complete: nothing to do" in done.stdout
    assert "europarl: 300 pairs read, 300 kept" in done.stdout
    assert "train: 600 pairs read" in done.stdout
    raw, data = world.work / "raw", world.work / "data-bin"
    for language, base in (("de", GERMAN), ("en", ENGLISH)):
        assert (raw / f"train.{language}").read_bytes() == joined(language)
        assert (raw / f"valid.{language}").read_bytes() == text(base, 600, 20)
        # sacreBLEU makes one space of several.
        expected = [" ".join(line.split()) for line in text(base, 620, 20).decode().splitlines()]
        assert (raw / f"test.{language}").read_text().splitlines() == expected
        for split in ("train", "valid", "test"):
            assert (data / f"{split}.de-en.{language}.bin").stat().st_size > 0
    # Only what is needed is unpacked.
    assert {path.name for path in (world.work / "unpacked").iterdir()} == {
        f"{name}.{end}"
        for name in ("europarl-v7.de-en", "commoncrawl.de-en", "news-commentary-v9.de-en",
                     "newstest2013")
        for end in ("de", "en", "json")
    }  # fmt: skip
    settings = (data / "settings.txt").read_text()
    assert "bpe 100" in settings and "nonprinting remove" in settings and "dedup yes" in settings

    # A second run asks nobody and changes nothing.
    before = {path: path.stat().st_mtime_ns for path in world.work.rglob("*")}
    world.close()
    again = succeeded(world.prepare("--dedup"))
    assert again.stdout.count("nothing to do") == 2
    assert {path: path.stat().st_mtime_ns for path in world.work.rglob("*")} == before
    # Other options are refused.
    refused(world.prepare(), "data of other options", "--redo")
    refused(world.prepare("--subset", 50), "was made with another subset", "--redo")
    assert {path: path.stat().st_mtime_ns for path in world.work.rglob("*")} == before


# ---------------------------------------------------------------- archives


@pytest.mark.parametrize("path", [EUROPARL, TEST])
def test_truncated_archive_with_its_checksum(world, path):
    world.without_cache()
    data = world.path(path).read_bytes()
    world.path(path).write_bytes(data[: len(data) // 2])
    world.know()
    refused(world.raw(), path.split("/")[-1], "damaged", "MIRROR")
    assert not list((world.work / "unpacked").glob("europarl*.de*")) or path == TEST
    assert not (world.work / "raw").exists()


def test_archive_without_the_text(world):
    pack(world.path(NEWS), {"training/other.de": b"x\n"})
    world.know()
    refused(world.raw(), "ends without training/news-commentary-v9.de-en.de and", "MIRROR")


def test_unequal_line_counts(world):
    members = dict(ARCHIVES[COMMONCRAWL])
    members["commoncrawl.de-en.en"] += b"One line too many.\n"
    pack(world.path(COMMONCRAWL), members)
    world.know()
    refused(
        world.prepare(),
        "unequal numbers of lines", "commoncrawl.de-en.de has 200", "commoncrawl.de-en.en has 201",
    )  # fmt: skip
    assert not list((world.work / "unpacked").glob("commoncrawl*"))


def test_test_set_of_another_size(world):
    world.without_cache()
    world.checksums.write_text(world.checksums.read_text().replace("2014 20 ", "2014 3003 "))
    refused(world.raw(), TEST, "20 sentences, expected 3,003")


def test_test_set_that_sacrebleu_does_not_know(world):
    world.without_cache()
    world.checksums.write_text(re.sub("2014 20 .*", "2014 20 abcdef", world.checksums.read_text()))
    done = world.raw()
    refused(done, TEST, "not the file that sacreBLEU expects", "SACREBLEU")


def test_test_set_from_sacrebleus_cache(world):
    succeeded(world.raw())
    assert TEST not in dict(world.mirror.asked)
    assert (world.work / "raw/test.de").read_bytes() == text(GERMAN, 700, 20)
    # What was cut short there is fetched.
    (world.cache / "wmt14_full.de-en.src").write_bytes(text(GERMAN, 700, 10))
    succeeded(world.raw("--redo"))
    assert TEST in dict(world.mirror.asked)


# ---------------------------------------------------------------- stale and foreign files


def test_changed_files_are_noticed(world):
    succeeded(world.raw())
    raw = world.work / "raw"
    with open(raw / "train.de", "a") as file:
        file.write("Noch ein Satz.\n")
    refused(world.raw(), "train.de was changed after it was made", f"remove {raw} and run again")
    with open(world.work / "unpacked/commoncrawl.de-en.en", "a") as file:
        file.write("One more sentence.\n")
    refused(world.raw("--redo"), "commoncrawl.de-en.en was changed", "commoncrawl.de-en.json")
    (world.work / "unpacked/commoncrawl.de-en.json").unlink()
    succeeded(world.raw("--redo"))
    assert (raw / "train.en").read_bytes() == joined("en")
    # A file that is gone is made again.
    (raw / "valid.de").unlink()
    succeeded(world.raw())
    assert (raw / "valid.de").read_bytes() == text(GERMAN, 600, 20)


def test_foreign_folder_is_refused(world):
    (world.work / "raw").mkdir(parents=True)
    (world.work / "raw/thesis.tex").write_text("mine")
    refused(world.raw(), "prepare.sh didn't make", "set WORK")
    refused(world.raw("--redo"), "prepare.sh didn't make", "set WORK")
    (world.work / "raw/manifest.json").write_text("[]")
    refused(world.raw(), "manifest.json is not what prepare.sh wrote")
    assert (world.work / "raw/thesis.tex").exists()
    assert not world.mirror.asked


def test_other_archives_are_noticed(world):
    succeeded(world.raw())
    pack(world.path(NEWS), both("training/news-commentary-v9.de-en", 0, 50))
    world.know()
    refused(world.raw(), "made with another archives", "--redo")
    # The archive that was fetched before is not the one asked for.
    refused(world.raw("--redo"), "nc-v9.tgz has", "remove")
    (world.work / "downloads/training-parallel-nc-v9.tgz").unlink()
    done = succeeded(world.raw("--redo"))
    assert "news: 50 pairs read" in done.stdout


# ---------------------------------------------------------------- what is taken of the text


def test_subset_is_spread_over_the_text(world):
    done = succeeded(world.raw("--subset", 60))
    lines = (world.work / "raw/train.de").read_bytes().splitlines(keepends=True)
    everything = joined("de").splitlines(keepends=True)
    assert lines == everything[9::10]
    assert (
        "europarl: 300 pairs read, 30 kept; dropped: 0 not valid UTF-8; 270 not in" in done.stdout
    )
    assert len((world.work / "raw/train.en").read_bytes().splitlines()) == 60
    assert json.loads((world.work / "raw/manifest.json").read_text())["settings"]["subset"] == 60


def test_subset_of_more_than_there_is(world):
    succeeded(world.raw("--subset", 10_000, "--corpora", "news"))
    assert len((world.work / "raw/train.en").read_bytes().splitlines()) == 100
    assert COMMONCRAWL not in dict(world.mirror.asked)


def test_lines_that_tools_would_misread(world):
    pairs = [
        (b"\xef\xbb\xbfgut\r\n", b"\xef\xbb\xbfgood\r\n"),
        ("Gr\u00f6\u00dfe\n".encode("latin-1"), b"size\n"),
        (b"ein\rWort\tmehr\x0b.\n", "one\u2028line \u00851 \u2029.\n".encode()),
        ("gr\u00f6\u00dfer\n".encode(), b"\xff\n"),
        (b"letzte", b"last"),
    ]
    members = {
        "training/news-commentary-v9.de-en.de": b"".join(german for german, _ in pairs),
        "training/news-commentary-v9.de-en.en": b"".join(english for _, english in pairs),
    }
    pack(world.path(NEWS), members)
    world.know()
    done = succeeded(world.raw("--corpora", "news"))
    assert "news: 5 pairs read, 3 kept; dropped: 2 not valid UTF-8" in done.stdout
    raw = world.work / "raw"
    assert (raw / "train.de").read_bytes() == b"gut \nein Wort mehr .\nletzte\n"
    assert (raw / "train.en").read_bytes() == b"good \none line  1  .\nlast\n"


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--subset", "0"], "--subset 0: give a whole number above 0"),
        (["--corpora", "news,un"], "--corpora news,un: give europarl"),
        (["--bpe", "x"], "--bpe x: give a whole number"),
        (["--frobnicate", "1"], "unknown option --frobnicate"),
        (["--subset"], "--subset needs a value"),
    ],
)
def test_options_are_checked(world, options, says):
    refused(world.prepare(*options), says)
    assert not world.mirror.asked


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RETRIES", "often", "RETRIES=often: give a whole number"),
        ("MIRROR", "not a url", "no address"),
        ("CHECKSUMS", "/dev/null/x", "cannot read"),
        ("PYTHON", "/nowhere/python", "make install"),
    ],
)
def test_variables_are_checked(world, name, value, says):
    world.environment[name] = value
    refused(world.prepare(), says)


@pytest.mark.parametrize("line", ["dev.tgz 12", "other.tgz 1 abc"])
def test_checksums_are_checked(world, line):
    world.checksums.write_text(line + "\n")
    refused(world.raw(), "dev.tgz 12" if "dev" in line else "no file other.tgz")


def test_help_names_every_option_and_variable():
    done = subprocess.run([str(PREPARE), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for option in re.findall(r"^ +(?:-h \| )?(--[a-z]+)\) ", PREPARE.read_text(), re.MULTILINE):
        assert option in done.stdout
    code = "".join(path.read_text() for path in RAW.parent.glob("*.py"))
    names = set(re.findall(r'environ\.get\("([A-Z]+)"', code))
    assert {"MIRROR", "CHECKSUMS", "SACREBLEU"} <= names
    for name in names:
        assert f"  {name}=" in done.stdout


def test_sums_are_those_of_wmt():
    """The README's table, the code and TensorFlow Datasets' records agree."""
    archives = RAW.with_name("archives.py").read_text()
    code = archives.replace("_", "")
    readme = (ROOT / "examples/wmt14_de_en/README.md").read_text()
    rows = re.findall(r"\| (\S+\.tgz) \| ([\d,]+) \| `([0-9a-f]{64})` \|", readme)
    assert len(rows) == 4
    for name, size, sha256 in rows:
        assert name.split("/")[-1] in code.replace("\n", "") or name in archives
        assert size.replace(",", "") in code
        assert sha256 in code
