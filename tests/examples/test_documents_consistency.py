"""examples/documents/consistency.py on sentences whose answer is seen at once."""

import subprocess
import sys

import pytest
from helpers.commands import ROOT

SCRIPT = ROOT / "examples" / "documents" / "consistency.py"


@pytest.fixture
def texts(tmp_path):
    """A term with two translations, one of them twice in each document of the reference."""
    pairs = [("das fenster ist gross", "the window is big")] * 8
    pairs += [("das fenster ist klein", "the pane is small")] * 8
    pairs += [(f"wort nummer{n} ist da", f"a filler{n} is there") for n in range(200)]
    for side, language in enumerate(("de", "en")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        (tmp_path / f"train.{language}").write_text(text)
    source = ["das fenster", "ein haus", "das Fenster !", "das fenster", "fenster hier"]
    (tmp_path / "test.de").write_text("\n".join(source) + "\n")
    (tmp_path / "test.documents").write_text("1\n1\n1\n2\n2\n")
    for name, words in (
        ("reference", ["window", "house", "window", "pane", "pane"]),
        ("half", ["window", "house", "pane", "pane", "pane"]),
        ("none", ["window", "house", "house", "window", "house"]),
    ):
        (tmp_path / name).write_text("".join(f"the {word}\n" for word in words))
    return tmp_path


def told(folder, *names) -> subprocess.CompletedProcess:
    words = ["--train", "train", "--source", "de", "--target", "en", "--documents",
             "test.documents", "--reference", "reference", "test.de", *names]  # fmt: skip
    return subprocess.run(
        [sys.executable, SCRIPT, *words], cwd=folder, capture_output=True, text=True
    )


def test_shares(texts):
    assert told(texts, "half", "none").stdout.splitlines() == [
        "reference: 100.0 % (2 of 2; 2 repeated terms)",
        "half: 50.0 % (1 of 2; 2 repeated terms)",
        "none: none can be told (0 of 0; 2 repeated terms)",
    ]


def test_texts_that_do_not_fit(texts):
    (texts / "half").write_text("the window\n")
    done = told(texts, "half")
    assert done.returncode == 2 and "half has 1 lines, test.de has 5" in done.stderr
