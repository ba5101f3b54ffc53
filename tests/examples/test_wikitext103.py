"""examples/wikitext103: the text, and the commands that would be run."""

import hashlib
import json
import os
import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest
from helpers.commands import ROOT, programs

from examples.wikitext103 import wiki

EXAMPLE = ROOT / "examples" / "wikitext103"


# the text


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("'''Bold''' and ''italic'' words <!-- not me --> stay here.",
         "Bold and italic words stay here."),
        ("See the [[Moon|big moon]] and [[stars]] tonight.", "See the big moon and stars tonight."),
        ("A claim stands here.<ref name=\"x\">A book</ref><ref name=\"x\" /> So there.",
         "A claim stands here. So there."),
        ("{{infobox|a={{b|c}}}}It is {{convert|3|km|mi}} away from {{lang|de|Berlin}} now.",
         "It is 3 km away from Berlin now."),
        ("[[File:x.jpg|thumb|A [[red]] picture]]The text goes on here.", "The text goes on here."),
        ("[[Category:Things]] One two three four five.", "One two three four five."),
        ("Read [http://a.b/c this page] about it all.", "Read this page about it all."),
        ("Tom &amp; Jerry ran&nbsp;a very long way.", "Tom & Jerry ran a very long way."),
        ("A name ({{lang-el}}, {{IPA}}) is given here.", "A name is given here."),
        ("We have <math>a^2</math> as the area there.", "We have formula as the area there."),
    ],
)  # fmt: skip
def test_markup_becomes_plain_text(markup, expected):
    assert [" ".join(line.split()) for line in wiki.plain(markup)] == [expected]


def test_lists_tables_appendices_and_empty_sections_are_left_out():
    text = "one two three four five"
    markup = "\n".join(
        [text, "* a list of many things here", "{| a\n| table of so many things\n{| in\n|}\n|}",
         "== Empty ==", "=== Full ===", text, "too short", "== See also ==", text,
         "=== Deeper ===", text, "== Last ==", text, "== References ==", text]
    )  # fmt: skip
    expected = [text, "== Empty ==", "=== Full ===", text, "== Last ==", text]
    assert wiki.plain(markup) == expected


def wheel_of(folder: Path, articles: int) -> Path:
    """A wheel with so many articles, a redirect and a page that is no article."""
    import bz2

    pages = [
        f"<page><title>T{n}</title><ns>0</ns><revision><text>"
        + f"Word{n} is a well-known word, isn't it? " * 20
        + f"\n== Part ==\nThe number {n} stands here once.</text></revision></page>"
        for n in range(articles)
    ]
    words = "#REDIRECT [[T1]] " * 200
    pages.append(f"<page><title>TR</title><ns>0</ns><text>{words}</text></page>")
    pages.append(pages[0].replace("T0", "TTalk").replace("<ns>0", "<ns>1"))
    namespace = "http://www.mediawiki.org/xml/export-0.10/"
    xml = f"<mediawiki xmlns='{namespace}'>{''.join(pages)}</mediawiki>"
    with zipfile.ZipFile(folder / wiki.WHEEL, "w") as wheel:
        wheel.writestr(wiki.ARTICLES, bz2.compress(xml.encode()))
    return folder / wiki.WHEEL


def test_articles_are_tokenised_and_split_whole(tmp_path):
    wiki.small(wheel_of(tmp_path, 20), tmp_path)
    texts = {split: (tmp_path / f"{split}.txt").read_text("utf-8") for split in wiki.SPLITS}
    titles = {s: {li for li in t.splitlines() if li.startswith("= T")} for s, t in texts.items()}
    assert [len(titles[split]) for split in wiki.SPLITS] == [6, 7, 7]
    assert len(set.union(*titles.values())) == 20
    for text in texts.values():
        lines = text.splitlines()
        assert len(lines) % 4 == 0
        number = lines[0].split()[1].removeprefix("T")
        assert lines[1].startswith(f"Word{number} is a well @-@ known word , isn 't it ? ")
        assert lines[2:4] == ["= = Part = =", f"The number {number} stands here once ."]


# prepare.sh


def script(name, *arguments, check=True, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VENV": "none", "WORKERS": "1"}
    environment |= {name: str(value) for name, value in variables.items()}
    environment["PATH"] = programs()
    done = subprocess.run(
        [EXAMPLE / name, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{name} {arguments}\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """An archive in the shape of WikiText-103's, and what prepare.sh makes of it."""
    folder = tmp_path_factory.mktemp("wikitext")
    archive = folder / "there.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for split, times in (("train", 60), ("valid", 20), ("test", 20)):
            zipped.writestr(
                f"wikitext-103/wiki.{split}.tokens", " \n = A = \n the <unk> word \n" * times
            )
    variables = dict(URL=archive.as_uri(), SHA256=hashlib.sha256(archive.read_bytes()).hexdigest())
    return folder / "work", variables


@pytest.mark.cli
def test_prepare_fetches_checks_and_binarises_once(prepared):
    work, variables = prepared
    done = script("prepare.sh", WORK=work, **variables)
    assert "0.0% replaced" in done.stdout
    words = (work / "data-bin" / "dict.txt").read_text("utf-8").split()
    assert set(words[::2]) == {"=", "A", "the", "word"}  # <unk> is fairseq's own
    assert "name wikitext103" in (work / "data-bin" / "settings.txt").read_text("utf-8")
    assert not list(work.glob("*.partial")) and not list(work.glob("cache/*.partial"))
    again = script("prepare.sh", WORK=work, URL="file:///nowhere", SHA256="none")
    assert "nothing to do" in again.stdout


@pytest.mark.cli
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(SHA256="0" * 64), "set URL to another mirror"),
        (dict(URL="file:///nowhere.zip"), "cannot fetch file:///nowhere.zip"),
        (dict(WORKERS="all"), "WORKERS=all: give a whole number"),
    ],
)
def test_prepare_refuses_what_is_not_the_archive(prepared, tmp_path, changes, message):
    done = script("prepare.sh", check=False, WORK=tmp_path, **{**prepared[1], **changes})
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("**/*.zip*")) and not list(tmp_path.glob("**/*.txt"))


# run.sh


@pytest.fixture
def data(tmp_path):
    (tmp_path / "settings.txt").write_text("name tiny\n")
    return tmp_path


def shown(data, model, **variables):
    done = script("run.sh", model, 1, **{"DATA": data, "DRY_RUN": 1, "GPUS": 0, **variables})
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]


@pytest.mark.cli
@pytest.mark.parametrize("size", ["wiki103", "trial"])
@pytest.mark.parametrize(
    ("model", "baseline", "own"),
    [
        ("mem-10", "baseline", {"--memory-tokens": "10"}),
        ("xl-mem-20", "xl-baseline", {"--memory-tokens": "20"}),
        ("xl-recurrent-10-2", "xl-baseline", {"--memory-tokens": "10", "--memory-recurrence": "2"}),
    ],
)
def test_models_differ_from_their_baseline_in_memory_alone(data, size, model, baseline, own):
    (ours, *evaluations), (theirs, *plain) = (
        shown(data, name, SIZE=size) for name in (model, baseline)
    )
    for option, value in own.items():
        assert ours[ours.index(option) + 1] == value
    for words in (ours, theirs):
        for option in ("--memory-tokens", "--memory-recurrence", "--batch-size"):
            if option in words:  # a recurrent model reads fewer rows of more segments
                at = words.index(option)
                rows, words[at : at + 2] = int(words[at + 1]), []
        assert rows * (2 if "recurrent" in model and words is ours else 1) == rows_of(size, model)
    alike = [word.replace("mem_transformer_lm", "transformer_lm") for word in ours]
    assert [word.replace(f"/{model}/", f"/{baseline}/") for word in alike] == theirs
    assert len(plain) == 2 and len(evaluations) == 3
    assert "zero-read" in evaluations[2][-1] and evaluations[1][-1] == "test"


@pytest.mark.cli
@pytest.mark.parametrize("model", ["mem-10", "xl-mem-20"])
def test_as_many_devices_are_used_as_the_batches_are_for(data, model):
    """fairseq takes all that a machine has, unless it is told."""
    for gpus, devices in ((0, "1"), (2, "2")):
        training = shown(data, model, GPUS=gpus)[0]
        assert training[training.index("--distributed-world-size") + 1] == devices
        assert ("--cpu" in training) == (gpus == 0)


def rows_of(size, model):
    return 20 if size == "trial" else 60 if model.startswith("xl") else 1


@pytest.mark.cli
@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("mem-x", 1), {}, "there is no model mem-x"),
        (("mem-10", "one"), {}, "seed one: give a whole number"),
        (("mem-10",), {}, "give a model and a seed"),
        (("mem-10", 1), {"SIZE": "huge"}, "SIZE=huge: give wiki103 or trial"),
        (("mem-10", 1), {"UPDATES": "150", "SIZE": "trial"}, "UPDATES=150: give a multiple of 100"),
        (("mem-10", 1), {"DATA": "nowhere"}, "run prepare.sh, or set DATA"),
    ],
)
def test_what_makes_no_sense_is_refused(data, arguments, variables, message):
    done = script("run.sh", *arguments, check=False, **{"DATA": data, "GPUS": 0, **variables})
    assert done.returncode == 1 and message in done.stderr


@pytest.mark.cli
def test_a_recurrent_model_is_trained_and_evaluated(prepared, tmp_path):
    work, variables = prepared
    script("prepare.sh", WORK=work, **variables)
    small = "--decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 16"
    script(
        "run.sh", "xl-recurrent-3-2", 1, DATA=work / "data-bin", SIZE="trial", UPDATES=3, GPUS=0,
        RUNS=tmp_path, BLOCKS=1, TRAIN_FLAGS=f"{small} --batch-size-valid 1",
    )  # fmt: skip
    folder = tmp_path / "trial/xl-recurrent-3-2/seed-1"
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert (result["memory_tokens"], result["memory_recurrence"]) == (3, 2)
    assert set(result["metrics"]) >= {"perplexity", "valid perplexity", "zero-read perplexity"}
    assert "nothing is known" not in (folder / "train.log").read_text("utf-8")


@pytest.mark.cli
@pytest.mark.slow
def test_a_model_is_trained_evaluated_and_reported_once(prepared, tmp_path):
    work, variables = prepared
    script("prepare.sh", WORK=work, **variables)
    tiny = dict(DATA=work / "data-bin", SIZE="trial", UPDATES=2, GPUS=0, RUNS=tmp_path, BLOCKS=2)
    script("run.sh", "mem-3", 1, **tiny)
    result = json.loads((tmp_path / "trial/mem-3/seed-1/result.json").read_text("utf-8"))
    assert result["metrics"]["perplexity"]["better"] == "lower"
    assert set(result["metrics"]) >= {"valid perplexity", "zero-read perplexity"}
    assert result["data"] == "wikitext103" and len(result["commands"]) == 4
    assert "nothing to do" in script("run.sh", "mem-3", 1, **tiny).stdout
    other = script("run.sh", "mem-3", 1, check=False, **{**tiny, "UPDATES": 4})
    assert other.returncode == 1 and "updates 2, not 4" in other.stderr
