"""`fairseq-mem lesion --by-slot --by-layer`: the losses are the model's, it resumes, it refuses."""

import csv
import math
import shutil

import numpy as np
import pytest
from fairseq_mem_text.files import sha256
from helpers import trained_models

import fairseq_mem
from fairseq_mem.tools import cli
from fairseq_mem.tools.insight import single_lesions
from fairseq_mem.tools.loading import load_translation_model

FLAGS = ["--memory-tokens", "3", "--max-source-positions", "24"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two seeds of an untrained model, and a test set."""
    folder = tmp_path_factory.mktemp("singles") / "data"
    one = trained_models.train(folder, FLAGS, save="one.pt")
    two = trained_models.train(folder, [*FLAGS, "--memory-init-std", "2"], save="two.pt")
    trained_models.write_test_set(folder, trained_models.texts(9, seed=4))
    return folder, one, two


def run(*words):
    return cli.main(["lesion", *map(str, words), "--cpu", "--batch-size", "4"])


def test_losses_are_those_of_the_model(files, tmp_path):
    folder, one, two = files
    run(one, two, folder, "--out", tmp_path, "--by-slot", "--by-layer")
    with (tmp_path / "slots.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["lesion"], row["number"]) for row in rows[:5]] == [
        ("slot", "0"), ("slot", "1"), ("slot", "2"), ("layer", "0"), ("layer", "1"),
    ]  # fmt: skip
    assert len(rows) == 10
    batch = None
    losses = {}
    for name, options in (
        ("whole", {}),
        ("slot", {"memory_lesion": "no-read", "memory_lesion_scope": "all",
                  "memory_lesion_slots": "1"}),
    ):  # fmt: skip
        model, _, task, _ = load_translation_model(one, folder, options)
        batch = trained_models.batch_of(task, trained_models.texts(9, seed=4))
        model.eval()
        log_probs = model.get_normalized_probs(model(**batch["net_input"]), log_probs=True)
        target = batch["target"]
        chosen = log_probs.gather(2, target[..., None])[..., 0]
        losses[name] = -chosen[target.ne(1)].double().sum().item()
    expected = (losses["slot"] - losses["whole"]) / batch["ntokens"] / math.log(2)
    assert float(rows[1]["difference"]) == pytest.approx(expected, abs=2e-6)
    assert float(rows[1]["low"]) <= expected <= float(rows[1]["high"])
    report = (tmp_path / "slots.md").read_text(encoding="utf-8")
    assert "Do the slots of two models correspond?" in report and "one.pt | two.pt" in report
    assert (tmp_path / "slots.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_where_it_was_stopped(files, tmp_path, monkeypatch):
    folder, one, _ = files
    evaluated, losses = [], single_lesions.sentence_losses

    def stopping(evaluation, model):
        evaluated.append(model)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return losses(evaluation, model)

    monkeypatch.setattr(single_lesions, "sentence_losses", stopping)
    with pytest.raises(fairseq_mem.UserError, match="stopped"):
        run(one, folder, "--out", tmp_path, "--by-slot")
    assert not (tmp_path / "slots.md").exists()
    run(one, folder, "--out", tmp_path, "--by-slot")
    assert len(evaluated) == 5  # the whole and a slot; one that was stopped; two slots
    (stored,) = (tmp_path / "results").iterdir()
    kept = np.array([path.stat().st_size for path in stored.glob("*.json")])
    assert len(kept) == 4 and (kept > 0).all()


def test_seeds_in_folders_of_their_own_are_told_apart(files, tmp_path):
    folder, one, two = files
    for path, seed in ((one, "seed-1"), (two, "seed-2")):
        (tmp_path / seed).mkdir()
        shutil.copy(path, tmp_path / seed / "model.pt")
    models = [tmp_path / seed / "model.pt" for seed in ("seed-1", "seed-2")]
    run(*models, folder, "--out", tmp_path / "out", "--by-slot")
    with (tmp_path / "out" / "slots.csv").open(encoding="utf-8") as file:
        assert {row["checkpoint"] for row in csv.DictReader(file)} == {
            "seed-1/model.pt", "seed-2/model.pt"
        }  # fmt: skip
    report = (tmp_path / "out" / "slots.md").read_text(encoding="utf-8")
    assert "seed-1/model.pt | seed-2/model.pt" in report and sha256(two) in report


@pytest.mark.parametrize("lesion", ["--by-slot", "--by-layer"])
def test_models_of_different_sizes_are_refused_before_any_work(files, tmp_path, lesion):
    folder, one, _ = files
    deeper = trained_models.train(folder, [*FLAGS, "--encoder-layers", "3"], save="deeper.pt")
    with pytest.raises(fairseq_mem.UserError, match=r"3 \+ 2 layers .* give seeds of one model"):
        run(one, deeper, folder, "--out", tmp_path / "out", lesion)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_twice_is_refused(files, tmp_path):
    folder, one, _ = files
    with pytest.raises(fairseq_mem.UserError, match="given twice; give seeds of one model"):
        run(one, one, folder, "--out", tmp_path, "--by-slot")
