"""examples/int8/robustness.py on tiny models."""

import csv
import json
import sys

import pytest
import torch
from fairseq import checkpoint_utils
from helpers.commands import ROOT
from helpers.trained_models import batch_of, texts, train, write_test_set

pytest.importorskip("ctranslate2")
pytest.importorskip("fairseq_mem_serve")

PAIRS = texts(10, seed=77)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """`data-bin`, `raw`, and `runs` with a baseline, two seeds with memory and a MemCtrl."""
    folder = tmp_path_factory.mktemp("int8")
    for run, flags in (
        ("baseline/seed-1", ["--arch", "transformer"]),
        ("mem-3/seed-1", ["--memory-tokens", "3", "--memory-decoder-tokens", "1"]),
        ("mem-3/seed-2", ["--memory-tokens", "3", "--memory-decoder-tokens", "1"]),
        ("mem-ctrl-3/seed-1", ["--memory-tokens", "3", "--memory-update", "ctrl"]),
    ):
        updates = 4 if run.endswith("1") else 2
        train(folder / "data-bin", flags, updates, save=f"../runs/{run}/model.pt")
    write_test_set(folder / "data-bin", PAIRS)
    return folder


@pytest.fixture
def robustness(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "int8")
    monkeypatch.delitem(sys.modules, "robustness", raising=False)
    import robustness

    yield robustness
    del sys.modules["robustness"]


def run(robustness, monkeypatch, project, *arguments):
    words = [project / "runs", "--data", project / "data-bin", "--out", project / "out"]
    words += ["--threads", "1", *arguments]
    monkeypatch.setattr(sys, "argv", ["robustness.py", *map(str, words)])
    return robustness.main()


def test_it_measures_reports_and_resumes(robustness, monkeypatch, project, capsys):
    assert run(robustness, monkeypatch, project) == 1  # MemCtrl cannot be exported
    told = capsys.readouterr()
    assert "mem-ctrl-3/seed-1" in told.out and "--memory-update ctrl" in told.out
    written = (project / "out" / "report.md").read_text(encoding="utf-8")
    assert written.strip() == told.out.strip()
    assert "| baseline | 1 |" in written and "| mem-3 | 2 |" in written
    assert "| model | positions | E1 | E2 | D1 | D2 |" in written
    assert written.count("| mem-3 | memory |") == 4 and "| baseline | memory |" not in written
    with open(project / "out" / "bleu.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [
        ("baseline", "seed-1"), ("mem-3", "seed-1"), ("mem-3", "seed-2"),
    ]  # fmt: skip
    for row in rows:
        assert int(row["sentences"]) == len(PAIRS) >= int(row["same"])
        assert 0 <= float(row["bleu_int8"]) <= 100
        assert int(row["bytes_int8"]) < int(row["bytes_float32"])

    measured = []
    for step in ("bleu", "activations"):
        function = getattr(robustness, step)
        monkeypatch.setattr(
            robustness, step, lambda a, c, f=function: measured.append((f.__name__, c)) or f(a, c)
        )
    (project / "out" / "mem-3" / "seed-2" / "bleu.json").unlink()
    run(robustness, monkeypatch, project)
    again = [(step, checkpoint.parent.name) for step, checkpoint in measured]
    assert again == [("bleu", "seed-2"), ("bleu", "seed-1")]  # the second is MemCtrl's
    assert (project / "out" / "report.md").read_text(encoding="utf-8") == written
    measured.clear()
    run(robustness, monkeypatch, project, "--beam", "2")
    assert len(measured) == 7  # other options: nothing is mixed


def test_activations_are_those_of_every_sentence_alone(robustness, monkeypatch, project):
    """Padding is left out, memory and text are told apart, in the encoder and in the decoder."""
    checkpoint = project / "runs" / "mem-3" / "seed-1" / "model.pt"
    args = type("Args", (), {"data": project / "data-bin"})
    found = {
        (row["side"], row["layer"], row["point"], row["part"]): row
        for row in robustness.activations(args, checkpoint)["rows"]
    }
    assert len(found) == 2 * 2 * 2 * 2
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], {"data": str(project / "data-bin")}
    )
    model = models[0].double().eval()
    seen: dict[str, list[torch.Tensor]] = {}  # each of (m+T) x C
    model.encoder.layers[1].register_forward_hook(
        lambda module, inputs, output: seen.setdefault("encoder", []).append(output[:, 0])
    )
    model.decoder.layers[0].fc2.register_forward_hook(
        lambda module, inputs, output: seen.setdefault("decoder", []).append(inputs[0][:, 0])
    )
    with torch.no_grad():
        for pair in PAIRS:
            model(**batch_of(task, [pair])["net_input"])
    for side, layer, point, slots in (("encoder", 2, "output", 3), ("decoder", 1, "inner", 1)):
        parts = {"memory": [x[:slots] for x in seen[side]], "text": [x[slots:] for x in seen[side]]}
        for part, rows in parts.items():
            x = torch.cat(rows)
            ratio = x.abs().amax(1) / (x**2).mean(1).sqrt()
            expected = found[side, layer, point, part]
            assert expected["largest"] == pytest.approx(x.abs().max().item(), rel=1e-4)
            assert expected["peak_to_rms"] == pytest.approx(ratio.mean().item(), rel=1e-4)


def test_bad_input_is_one_line(robustness, monkeypatch, project, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"no model\.pt under"):
        monkeypatch.setattr(
            sys, "argv",
            ["robustness.py", str(tmp_path), "--data", str(project / "data-bin"), "--out", "x"],
        )  # fmt: skip
        robustness.main()
    for option in ("--source", "--reference"):
        with pytest.raises(SystemExit):
            run(robustness, monkeypatch, project, option, tmp_path / "nowhere")
        assert f"give {option}" in capsys.readouterr().err
    assert json.dumps(robustness.Peaks().summary()) == "null"
