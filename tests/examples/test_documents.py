"""examples/documents: the agreement task says what it means."""

import shutil
import subprocess
import sys

import pytest
from helpers.commands import ROOT

FOLDER = ROOT / "examples" / "documents"


@pytest.fixture(scope="module")
def agreement():
    sys.path.insert(0, str(FOLDER))
    try:
        import agreement as module
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_every_noun_has_one_gender_and_one_translation(agreement):
    nouns = [noun for nouns in agreement.NOUNS_OF.values() for noun in nouns]
    assert len(nouns) == 72 and {len(of_one) for of_one in agreement.NOUNS_OF.values()} == {24}
    for side in (0, 1):
        assert len({noun[side] for noun in nouns}) == 72


def test_templates_of_training_and_test_are_apart(agreement):
    for templates in (agreement.INTRODUCTIONS, agreement.FOLLOWERS, agreement.TOGETHER):
        assert not set(templates["train"]) & set(templates["test"])


def test_the_pronoun_is_that_of_the_noun_at_its_distance(agreement):
    genders = {word: g for g, nouns in agreement.NOUNS_OF.items() for word, _ in nouns}
    seen = set()
    for name, document in agreement.documents("test"):
        distance = int(name.split("-")[0])
        english, german = document[-1 - distance]
        (noun,) = genders.keys() & set(english.split())
        pronouns = [word for word in document[-1][1].split() if word in agreement.PRONOUNS]
        assert pronouns == [genders[noun]]
        between = document[len(document) - distance : -1]
        assert not any(genders.keys() & set(sentence[0].split()) for sentence in between)
        earlier = [w for sentence in document[: -1 - distance] for w in sentence[0].split()]
        assert any(genders[w] != genders[noun] for w in earlier if w in genders)
        seen.add((distance, genders[noun]))
        assert german
    assert seen == {(d, g) for d in range(9) for g in agreement.PRONOUNS}


@pytest.mark.cli
def test_the_study_from_data_to_report(tmp_path, monkeypatch):
    """Two updates of two models; a second call does nothing."""
    (tmp_path / "small.py").write_text(
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import agreement, runpy\n"
        "agreement.SIZES.update(train=40, valid=5); agreement.TEST_DOCUMENTS = 3\n"
        "sys.argv[0] = agreement.__file__; agreement.main()\n"
    )
    sys_argv = [sys.executable, tmp_path / "small.py", FOLDER, tmp_path / "work" / "text"]
    subprocess.run(sys_argv, check=True)
    words = [sys.executable, FOLDER / "by_distance.py", tmp_path / "work"]
    options = ["--updates", "2", "--seeds", "1", "--models", "gate-4-before", "context-1"]
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'serve'}")
    done = subprocess.run([*words, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "work" / "report.md").read_text().splitlines()
    assert table[0] == "After 2 updates:"
    assert [line.split(" | ")[0] for line in table[4:]] == ["| context-1", "| gate-4-before"]
    assert (tmp_path / "work" / "report.png").exists()
    again = subprocess.run([*words, *options], capture_output=True, text=True)
    assert again.returncode == 0 and " s\n" not in again.stdout
    sys.path.insert(0, str(FOLDER))
    try:
        import by_distance
    finally:
        sys.path.remove(str(FOLDER))
    # results of other lengths stay apart, and every seed counts
    of_seed = tmp_path / "work" / "runs" / "context-1-2-11"
    shutil.copytree(of_seed.with_name("context-1-2-1"), of_seed)
    assert "| context-1 | 2 |" in by_distance.report(tmp_path / "work", 2)
    assert "context-1" not in by_distance.report(tmp_path / "work", 22)
