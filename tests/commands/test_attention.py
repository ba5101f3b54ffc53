"""fairseq-mem attention: pages, weights and averages of models of all families."""

import base64
import csv
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers import saved_models

from fairseq_mem import UserError
from fairseq_mem.tools import cli

LINES = "w1 w2 w3 w4 w5 w6 w7\nw3 w9\n\nw5 , w8 w2\n"
MODELS = {
    "translation": [*saved_models.TRANSLATION, "--memory-tokens", "3"],
    "controls": [*saved_models.TRANSLATION, "--memory-tokens", "2", "--memory-static", "2",
                 "--attention-sink", "--memory-decoder-tokens", "1"],
    "language model": [*saved_models.LANGUAGE_MODEL, "--memory-tokens", "3"],
    "sentence encoder": [*saved_models.SENTENCE_ENCODER, "--memory-tokens", "3", "--memory-update",
                         "ctrl"],
    "xl": [*saved_models.TRANSFORMER_XL, "--memory-tokens", "2", "--memory-recurrence", "2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A checkpoint of each family, by name."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: saved_models.save(folder / name.replace(" ", "-"), flags)
        for name, flags in MODELS.items()
    }


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(LINES, encoding="utf-8")
    return path


def look(*words):
    return cli.main(["attention", *map(str, words)])


def page_of(path):
    """What the page holds: its data with the weights as arrays."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    for view in data["views"]:
        weights = np.frombuffer(base64.b64decode(view["weights"]), "<u2") / 65535
        shape = view["heads"], len(view["rows"]), len(view["columns"])
        view["weights"] = weights.reshape(shape)
    return data


@pytest.mark.parametrize("name", MODELS)
def test_a_sentence_and_a_corpus(models, name, text, tmp_path):
    out = tmp_path / "out"
    png = ["--png"] if name == "language model" else []
    assert look(models[name], "--input", text, "--out", out, "--batch-size", 2, *png) == 0
    page = page_of(out / "sentence-1.html")
    assert "http" not in (out / "sentence-1.html").read_text(encoding="utf-8")
    with np.load(out / "sentence-1.npz") as raw:
        names = {key.rsplit(".", 1)[0] for key in raw if "." in key}
        assert len(names) == len(page["views"])
        for view, key in zip(page["views"], dict.fromkeys(
            key.rsplit(".", 1)[0] for key in raw if "." in key
        )):  # fmt: skip
            weights = raw[f"{key}.weights"]
            np.testing.assert_allclose(view["weights"], weights, rtol=0, atol=1 / 65535)
            assert ((view["weights"] == 0) == (weights == 0)).all()
            assert list(raw[f"{key}.rows"]) == view["rows"]
            sums = weights.sum(axis=2)
            assert (sums < 1).all() if page["sink"] else np.allclose(sums, 1)
    kinds = {view["label"].split(",")[0] for view in page["views"]}
    sides = {"language model": {"decoder"}, "xl": {"decoder"}, "sentence encoder": {"encoder"}}
    assert kinds == sides.get(name, {"decoder", "encoder"})
    assert any("mem 0" in view["rows"] for view in page["views"]) or name == "xl"
    assert "3 sentences" in (out / "attention.md").read_text(encoding="utf-8")
    with (out / "attention.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            shares = [float(value) for key, value in row.items() if key.startswith("to_")]
            assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert {path.name for path in out.iterdir()} > {"states.csv", "slots.csv", "attention.png"}
    assert len(list(out.glob("sentence-1/*.png"))) == (3 if png else 0)


def test_segments_are_named_by_their_words(models, text, tmp_path):
    look(models["xl"], "--input", text, "--out", tmp_path / "out")
    views = page_of(tmp_path / "out" / "sentence-1.html")["views"]
    second = next(v for v in views if v["label"].endswith("segment 1") and v["layer"] == 0)
    words = ["w4", "w5", "w6", "w7"]
    assert second["rows"] == ["mem 0", "mem 1", *words, "write 0", "write 1"]
    cache = ["</s>", "w1", "w2", "w3"]
    assert second["columns"] == ["mem 0", "mem 1", *cache, *words, "write 0", "write 1"]


@pytest.mark.parametrize("name", ["language model", "translation"])
def test_data_that_a_recipe_named_from_its_own_folder(models, name, text, tmp_path, monkeypatch):
    shutil.copytree(models[name].parent, tmp_path / "project" / "data")
    (tmp_path / "project" / "run").mkdir()
    state = torch.load(models[name], weights_only=False)
    state["cfg"]["task"]["data"] = "data"
    model = tmp_path / "project" / "run" / "model.pt"
    torch.save(state, model)
    monkeypatch.chdir(tmp_path)
    look(model, "--input", text, "--out", tmp_path / "out")
    assert page_of(tmp_path / "out" / "sentence-1.html")["views"]
    torch.save(state, tmp_path / "elsewhere.pt")
    with pytest.raises(UserError, match="--data"):
        look(tmp_path / "elsewhere.pt", "--input", text, "--out", tmp_path / "other")


def test_given_translations_are_looked_at(models, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("w1 w2\n", encoding="utf-8")
    target.write_text("w7 </script>\n", encoding="utf-8")
    look(models["translation"], "--input", source, "--target", target, "--out", tmp_path / "out")
    page = page_of(tmp_path / "out" / "sentence-1.html")
    cross = next(view for view in page["views"] if "to the encoder" in view["label"])
    assert cross["rows"][0] == "w7" and cross["rows"][-1] == "</s>"
    assert cross["columns"] == ["mem 0", "mem 1", "mem 2", "w1", "w2", "</s>"]


def test_rows_are_called_and_grouped_by_the_same_word(models, tmp_path):
    """By what the decoder writes; in a language model by what it reads."""
    text, target = tmp_path / "text", tmp_path / "target"
    text.write_text("w1 w2\n", encoding="utf-8")
    target.write_text("w7 , w8\n", encoding="utf-8")
    written = "is written there"
    for name, words in (("translation", ["--target", target]), ("language model", [])):
        out = tmp_path / name
        look(models[name], "--input", text, *words, "--out", out)
        page = page_of(out / "sentence-1.html")
        assert (written in page["foot"]) == (name == "translation")
        assert "model model" not in page["foot"]
        with np.load(out / "sentence-1.npz") as raw:
            groups = raw["groups"]
            for key in (key.removesuffix(".rows") for key in raw if key.endswith(".rows")):
                for word, group in zip(raw[f"{key}.rows"], raw[f"{key}.row_groups"]):
                    assert (groups[group] == "marks") == (word == "</s>"), (key, word)
                    assert (groups[group] == "memory") == word.startswith("mem "), (key, word)


def test_a_baseline_is_set_beside(models, text, tmp_path):
    plain = saved_models.save(
        tmp_path / "plain", [*saved_models.TRANSLATION, "--memory-tokens", "0"], seed=2
    )
    look(models["translation"], "--input", text, "--out", tmp_path / "out", "--baseline", plain,
         "--pages", 0)  # fmt: skip
    assert not list((tmp_path / "out").glob("*.html"))
    report = (tmp_path / "out" / "attention.md").read_text(encoding="utf-8")
    assert "## model-1.pt" in report and "## model-2.pt" in report


@pytest.mark.parametrize(
    "words, said",
    [
        (["{translation}", "--input", "{none}"], "cannot read --input"),
        (["{translation}", "--input", "{empty}"], "has no text; give a sentence a line"),
        (["{translation}", "--input", "{text}", "--target", "{empty}"], "has more lines than"),
        (["{xl}", "--input", "{text}", "--target", "{text}"], "does not translate; leave it out"),
        (["{translation}", "--input", "{text}", "--baseline", "{xl}"], "give two of one kind"),
        (["{none}", "--input", "{text}"], "there is no checkpoint"),
        (["{translation}", "--input", "{pipe}"], "is a pipe and is read more than once"),
        (["{translation}", "--input", "{text}", "--target", "{pipe}"], "is a pipe and is read"),
        (["{xl}", "--input", "{text}", "--data", "{none}"], "is no folder; give the model's"),
        (["{xl}", "--input", "{text}", "--bpe-codes", "{empty}"], "holds no BPE merges"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(models, text, tmp_path, words, said):
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    read, write = os.pipe()
    os.write(write, b"w1 w2\n")
    os.close(write)
    names = {"none": tmp_path / "none", "empty": tmp_path / "empty", "text": text, **models}
    names["pipe"] = f"/dev/fd/{read}"
    with pytest.raises(UserError, match=said) as refused:
        look(*(word.format(**names) for word in words), "--out", tmp_path / "out")
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()
    os.close(read)


def test_lines_that_are_too_long_are_left_out(models, tmp_path, capsys):
    text = tmp_path / "text"
    text.write_text("w1 w2\n" + "w1 " * 1100 + "\n", encoding="utf-8")
    look(models["translation"], "--input", text, "--out", tmp_path / "out")
    assert "line 2 is left out: 1100 tokens are too many" in capsys.readouterr().err
    assert "1 sentences" in (tmp_path / "out" / "attention.md").read_text(encoding="utf-8")


def test_the_longest_line_of_a_sentence_encoder(models, tmp_path, capsys):
    """<s> takes a position, too."""
    text = tmp_path / "text"
    text.write_text("w1 w2\n" + "w1 " * 38 + "\n" + "w1 " * 39 + "\n", encoding="utf-8")
    look(models["sentence encoder"], "--input", text, "--out", tmp_path / "out")
    assert "line 3 is left out: 39 tokens are too many, the limit is 38" in capsys.readouterr().err
    assert "2 sentences" in (tmp_path / "out" / "attention.md").read_text(encoding="utf-8")


DRIVER = """
<script>
addEventListener("load", () => {
  const map = document.getElementById("map"), said = [];
  const press = key => map.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  map.focus(); said.push(document.getElementById("said").textContent);
  for (const key of ["ArrowDown", "ArrowRight", "End", "PageDown"]) {
    press(key); said.push(document.getElementById("said").textContent);
  }
  said.push(document.getElementById("head").value, map.getAttribute("aria-label"));
  const table = document.getElementById("table"); table.open = true; table.ontoggle();
  said.push(document.querySelectorAll("#numbers td").length);
  document.getElementById("kind").value = document.getElementById("kind").options[1].value;
  document.getElementById("kind").onchange({ target: document.getElementById("kind") });
  said.push(map.getAttribute("aria-label"));
  const out = document.createElement("pre"); out.id = "out"; out.textContent = JSON.stringify(said);
  document.body.append(out);
});
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_the_page_in_a_browser(models, text, tmp_path):
    look(models["translation"], "--input", text, "--out", tmp_path)
    path = tmp_path / "sentence-1.html"
    page, driven = page_of(path), tmp_path / "driven.html"
    whole = path.read_text(encoding="utf-8").replace("</body>", DRIVER + "</body>")
    driven.write_text(whole, encoding="utf-8")
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{driven}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = json.loads(re.search(r'id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]
                      .replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))  # fmt: skip
    view = page["views"][0]
    mean = view["weights"].mean(axis=0)
    last = len(view["columns"]) - 1
    assert said[0] == f"mem 0 → mem 0: {mean[0, 0]:.4f}"
    assert said[2] == f"mem 1 → mem 1: {mean[1, 1]:.4f}"
    assert said[3] == f"mem 1 → </s>: {mean[1, last]:.4f}"
    assert said[4] == f"mem 1 → </s>: {view['weights'][0, 1, last]:.4f}" and said[5] == "0"
    assert said[6].startswith("encoder, layer 0, head 0: 11 rows by 11 columns")
    assert said[7] == 121 and said[8].startswith("decoder, to the encoder, layer 0")


def test_weights_are_those_of_the_model(models, text, tmp_path):
    """As the model returns them to whoever asks, text to text."""
    from fairseq_mem.tools.insight.reader import Reader

    reader = Reader(models["translation"], None, None, None)
    lines = [reader.encode(line) for line in ("w1 w2 w3", "w9")]
    reading = reader.read(lines, [line.clone() for line in lines])
    cross = next(v for v in reading.views if (v.kind, v.layer) == ("cross", 1))
    source = torch.tensor([[5, 6, 7, 2], [1, 1, 13, 2]])
    previous = torch.tensor([[2, 5, 6, 7], [2, 13, 1, 1]])
    given = reader.model(source, None, previous)[1]["attn"][0]
    torch.testing.assert_close(cross.weights.mean(0)[..., 3:], given, rtol=0, atol=1e-6)
