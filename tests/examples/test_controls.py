"""examples/controls: copied words are found, wrong links counted, the study's commands known."""

import os
import subprocess
import sys
from importlib import import_module

from helpers.commands import ROOT, programs

FOLDER = ROOT / "examples" / "controls"
sys.path.insert(0, str(FOLDER))
activations, alignment = map(import_module, ("activations", "alignment"))


def test_copied_words_are_the_reference():
    source = "Da sprach Sa@@ ul zu Da@@ vid , 12 und 12 .".split()
    target = "Then Sa@@ ul said to D@@ avid , 12 .".split()
    # 12 stands twice in the source, a comma is no word
    assert alignment.pairs(source, target) == [({2, 3}, [1, 2]), ({5, 6}, [5, 6])]


def test_words_that_only_look_the_same_are_none():
    source = "In jenen Tagen war die Not groß , die : So an Saul , her 7".split()
    target = "In war they die : So an Saul , her 7".split()
    assert alignment.pairs(source, target) == [({12}, [7]), ({15}, [10])]


def test_wrong_links_are_counted():
    output = (
        "S-0\tDa Saul kam\nT-0\tthen Saul came\nA-0\t1-1 0-2\nH-0\t-1\tthen Saul came\n"
        "S-1\tDa Sa@@ ul kam\nT-1\tthen Sa@@ ul came\nA-1\t2-1 3-2 3-3\n"
    )
    assert alignment.errors(output) == (1, 3)


def test_activations_are_gathered(tmp_path):
    (tmp_path / "states.csv").write_text(
        "side,layer,positions,number,largest_activation,outliers\nencoder,0,memory,4,9,1\n"
        "encoder,0,words,9,2,9\nencoder,0,marks,9,2,9\nencoder,1,words,10,1,0\n"
        "encoder,1,marks,3,3,3\nencoder,1,punctuation,5,1,1\ndecoder,0,words,4,4,4\n"
    )
    (tmp_path / "attention.csv").write_text(
        "attention,rows,to_marks,to_punctuation,to_memory,to_static,to_sink\n"
        "cross,text,0.1,0.2,0.3,0,0.1\ncross,text,0.3,0.0,0.1,0,0.1\nencoder,text,1,0,0,0,0\n"
    )
    found = activations.measures(tmp_path)
    assert {name: round(value, 6) for name, value in found.items()} == {
        "encoder, memory": 9, "encoder, text": 3, "decoder, text": 4, "marks, punctuation": 0.3,
        "memory or control": 0.3, "outliers: memory": 25, "outliers: words": 0,
        "outliers: marks, punctuation": 50,
    }  # fmt: skip


def test_the_study_shows_its_commands():
    environment = {**os.environ, "DRY_RUN": "1", "VENV": "none"}
    environment["PATH"] = programs()
    done = subprocess.run(
        [FOLDER / "run.sh", "translation", "alignment"], capture_output=True, text=True,
        check=True, env=environment,
    )  # fmt: skip
    assert "--models baseline sink static-10 mem-10 mem-20" in done.stdout
    assert done.stdout.count("/seed-") == 15
    refused = subprocess.run(
        [FOLDER / "run.sh", "everything"], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    assert refused.returncode == 1 and "there is no stage everything" in refused.stderr
