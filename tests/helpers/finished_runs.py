"""Runs as a recipe leaves them, with invented results, and the report of them."""

import csv
import json
import random

import pytest
from sacrebleu.metrics import BLEU, CHRF

import fairseq_mem
from fairseq_mem.tools import cli

WORDS = "der und in zu den das nicht von sie ist des sich mit dem dass er es ein ich auf".split()
REFERENCE = [
    " ".join(random.Random(line).choices(WORDS, k=8 + line % 5)).capitalize() + "."
    for line in range(60)
]
SIGNATURES = {
    "BLEU": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "chrF": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
}


SETTINGS = (
    "size",
    "updates",
    "lr",
    "data_sha256",
    "dictionary_sha256",
    "tokens_per_update",
)  # the rest are results


def translation(seed, errors):
    """The reference with a share of its words replaced."""
    numbers = random.Random(seed)
    return [
        " ".join(
            numbers.choice(WORDS) if numbers.random() < errors else word for word in line.split()
        )
        for line in REFERENCE
    ]


def make_run(folder, model, seed, errors=0.3, finished=True, **changes):
    """A run's folder as a run script leaves it; ``changes`` go into settings and result."""
    folder.mkdir(parents=True)
    settings = {
        "format": 1, "model": model, "label": model.replace("mem-", "MemTransformer "),
        "size": "trial", "seed": seed, "data": "bible", "updates": 2000, "lr": 0.004,
        **{key: changes.pop(key) for key in list(changes) if key in SETTINGS},
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    if not finished:
        return folder
    lines = translation(100 * seed + len(model), errors)
    (folder / "hypotheses.txt").write_text("\n".join(lines) + "\n")
    (folder / "reference.txt").write_text("\n".join(REFERENCE) + "\n")
    scores = [scorer.corpus_score(lines, [REFERENCE]).score for scorer in (BLEU(), CHRF())]
    result = {
        **settings,
        "metrics": {
            "valid loss": {"value": 3 + errors + seed / 100, "better": "lower"},
            "chrF": {"value": scores[1], "better": "higher"},
            "BLEU": {"value": scores[0], "better": "higher"},
        },
        "signatures": SIGNATURES, "parameters": 1234567 + 10 * len(model),
        "target_tokens_per_second": 1000.0 + seed, "wall_seconds": 600.0 * seed,
        "versions": {"torch": "2.13.0", "fairseq-fixed": "0.12.3.1"}, "hardware": "2 x CPU",
        "threads": 1, "commands": [f"fairseq-train --arch {model} --seed {seed}"],
        **changes,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def report(*words):
    assert cli.main(["report", *map(str, words), "--n-samples", "100"]) == 0


def refusal(*words):
    with pytest.raises(fairseq_mem.UserError) as stop:
        report(*words)
    assert "\n" not in str(stop.value)
    return str(stop.value)


def rows(out):
    with (out / "report.csv").open(newline="") as file:
        return {(row["model"], row["metric"], row["size"]): row for row in csv.DictReader(file)}


def edit(folder, **changes):
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, **changes}))


def value(folder, metric):
    return json.loads((folder / "result.json").read_text())["metrics"][metric]["value"]
