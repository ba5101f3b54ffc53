"""`fairseq-mem lesion --by-slot` and `--by-layer`: what each slot, and each layer, is good for.

The loss of the reference, teacher-forced, with a no-read lesion of one slot everywhere, or of all
slots in one layer. The difference to the whole model is one of the same sentences, so its interval
comes from a bootstrap over sentences.
"""

import csv
import io
import json
import math
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq_mem_text.files import read_json, sha256

from ...attention.recording import recording
from ...errors import UserError
from ...files import write_text
from ...runs import charts
from ...runs.tables import markdown, signed
from .averages import LayerSums
from .slots import Profile, clusters, correspondence, profile
from .views import groups_of, static_keys, views

SAMPLES = 2000  # of the bootstrap
SEED = 12345
PROFILED = 1000  # sentences whose attention is averaged


@dataclass
class Effect:
    """Of one lesion.

    Attributes:
        kind: ``"slot"`` or ``"layer"``.
        number: of the slot or the layer, from 0.
        difference: of the loss, in bits a token; positive: the lesion hurts.
        low, high: its 95 % interval.
    """

    kind: str
    number: int
    difference: float
    low: float
    high: float


def overrides(kind: str, number: int) -> dict[str, Any]:
    """What goes through fairseq's ``--model-overrides``."""
    lesion = {"memory_lesion": "no-read", "memory_lesion_scope": "all"}
    return {**lesion, f"memory_lesion_{kind}s": str(number)}


def interval(whole: np.ndarray, lesioned: np.ndarray, tokens: np.ndarray) -> tuple[float, ...]:
    """The difference in bits a token, and its 95 % interval.

    Args:
        whole, lesioned: summed losses of the same sentences, in nats.
        tokens: of each.
    """
    gain = (lesioned - whole) / math.log(2)
    chance = np.random.default_rng(SEED)
    drawn = []
    for _ in range(SAMPLES):
        some = chance.integers(0, len(gain), len(gain))
        drawn.append(gain[some].sum() / tokens[some].sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(gain.sum() / tokens.sum()), float(low), float(high)


@torch.no_grad()
def sentence_losses(evaluation: Any, model: Any) -> tuple[list[float], list[int]]:
    """Of every sentence of the test set, in its order: the summed loss in nats, and its tokens."""
    from fairseq import utils

    pad = evaluation.task.target_dictionary.pad()
    losses: dict[int, float] = {}
    tokens: dict[int, int] = {}
    for batch in evaluation.batches:
        batch = utils.move_to_cuda(batch) if evaluation.cuda else batch
        batch = evaluation.with_memory(batch, model)
        output = model(**batch["net_input"])
        log_probs = model.get_normalized_probs(output, log_probs=True, sample=batch)
        target = batch["target"]
        chosen = log_probs.gather(2, target.unsqueeze(2)).squeeze(2).double()
        real = target.ne(pad)
        sums = -chosen.masked_fill(~real, 0.0).sum(dim=1)
        for number, loss, count in zip(batch["id"].tolist(), sums.tolist(), real.sum(1).tolist()):
            losses[number], tokens[number] = loss, count
    order = sorted(losses)
    return [losses[number] for number in order], [tokens[number] for number in order]


@torch.no_grad()
def slot_profile(evaluation: Any, model: Any) -> Profile | None:
    """What the encoder's slots attend to, in the first sentences of the test set."""
    from fairseq import utils

    task = evaluation.task
    groups = [groups_of(words) for words in (task.source_dictionary, task.target_dictionary)]
    sums: dict[tuple[str, int], LayerSums] = {}
    seen = 0
    for batch in evaluation.batches:
        batch = utils.move_to_cuda(batch) if evaluation.cuda else batch
        given = evaluation.with_memory(batch, model)["net_input"]
        with recording(model) as maps:
            model(**given)
        maps = {name: [weights.cpu() for weights in some] for name, some in maps.items()}
        source, target = given["src_tokens"].cpu(), given["prev_output_tokens"].cpu()
        for view in views(maps, static_keys(model), groups[0][source], groups[1][target]):
            key = view.kind, view.layer
            sums.setdefault(key, LayerSums(view.weights.size(0))).add(view)
        seen += len(batch["id"])
        if seen >= PROFILED:
            break
    return profile(sums)


def _stored(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier result of the same; None if there is none, or it is damaged or of another."""
    try:
        result = read_json(path)
    except (OSError, ValueError):
        return None
    return result if result.get("settings") == identity else None


class Singles:
    """The work: one checkpoint after the other, resuming.

    Args:
        evaluation: the test set, as `fairseq-mem lesion` reads it.
        identity: what its results depend on beside checkpoint and lesion.
        out: the folder.
    """

    def __init__(self, evaluation: Any, identity: dict[str, Any], out: Path) -> None:
        self.evaluation, self.identity, self.out = evaluation, identity, out

    def losses(self, checkpoint: Path, digest: str, name: str, options: dict[str, Any]) -> Any:
        """The sentences' losses and tokens with some options, from the disk if they are there."""
        path = self.out / "results" / digest[:12] / f"{name}.json"
        identity = {"checkpoint": digest, **self.identity}
        result = _stored(path, identity)
        if result is None:
            model = self.evaluation.load(checkpoint, options)
            if not self.evaluation.batches:
                self.evaluation.load_data(model)
            losses, tokens = sentence_losses(self.evaluation, model)
            result = {"settings": identity, "losses": losses, "tokens": tokens}
            write_text(path, json.dumps(result) + "\n")
        return np.array(result["losses"]), np.array(result["tokens"])

    def effects(self, checkpoint: Path, digest: str, wanted: list[tuple[str, int]]) -> list[Effect]:
        """Every lesion's."""
        from tqdm import tqdm

        whole, tokens = self.losses(checkpoint, digest, "whole", {})
        found = []
        for kind, number in tqdm(wanted, desc=checkpoint.name, unit=" lesions", disable=None):
            lesioned, _ = self.losses(
                checkpoint, digest, f"{kind}-{number}", overrides(kind, number)
            )
            found.append(Effect(kind, number, *interval(whole, lesioned, tokens)))
        return found

    def profile(self, checkpoint: Path) -> Profile | None:
        """What the slots of a checkpoint attend to."""
        model = self.evaluation.load(checkpoint, {})
        if not self.evaluation.batches:
            self.evaluation.load_data(model)
        return slot_profile(self.evaluation, model)


class Of(NamedTuple):
    """What is told of a checkpoint."""

    name: str
    digest: str
    effects: list[Effect]
    profile: Profile | None


Told = list[Of]


def names_of(paths: list[Path]) -> list[str]:
    """What checkpoints are called: their files' names, with as many folders as tell them apart."""
    whole = [path.absolute() for path in paths]
    most = max(len(path.parts) for path in whole)
    for count in range(1, most + 1):
        names = ["/".join(path.parts[-count:]) for path in whole]
        if len(set(names)) == len(names):
            break
    return names


def comma_separated(told: Told) -> str:
    """A line for each lesion of each checkpoint."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["checkpoint", "lesion", "number", "difference", "low", "high", "cluster"])
    for name, _, effects, found in told:
        groups = [] if found is None else clusters(found.attends)
        for one in effects:
            known = one.kind == "slot" and one.number < len(groups)
            writer.writerow([
                name, one.kind, one.number, f"{one.difference:.6f}", f"{one.low:.6f}",
                f"{one.high:.6f}", groups[one.number] if known else "",
            ])  # fmt: skip
    return text.getvalue()


def report(told: Told, subset: str) -> str:
    """The report in Markdown."""
    lines = [
        "# One slot, one layer at a time", "",
        f"How much the loss of the reference ({subset}, teacher-forced, bits a token) rises when "
        "text may not attend to one memory slot, anywhere, or to memory in one layer of encoder "
        f"and decoder. 95 % intervals from a bootstrap of {SAMPLES:,} samples of the sentences.",
        "",
        "![lesions](slots.png)", "",
    ]  # fmt: skip
    for name, digest, effects, found in told:
        groups = [] if found is None else clusters(found.attends)
        rows = []
        for one in effects:
            sure = one.low > 0 or one.high < 0
            cluster = groups[one.number] if one.kind == "slot" and one.number < len(groups) else ""
            rows.append([f"{one.kind} {one.number}", signed(one.difference, 4),
                         f"{signed(one.low, 4)} to {signed(one.high, 4)}",
                         "yes" if sure else "", cluster])  # fmt: skip
        lines += [f"## {name}", "", f"sha256 {digest}", "", *markdown(
            ["without", "difference", "95 % interval", "beyond chance", "cluster"], rows
        ), ""]  # fmt: skip
    pairs = list(combinations([one for one in told if one.profile is not None], 2))
    if pairs:
        lines += ["## Do the slots of two models correspond?", ""]
        rows = []
        for first, second in pairs:
            assert first.profile is not None and second.profile is not None
            match = correspondence(first.profile, second.profile)
            rows.append([first.name, second.name, f"{match.matched:.2f}",
                         f"{match.held_out:.2f}", f"{match.chance:.3f}"])  # fmt: skip
        lines += [*markdown(["model", "and", "attend alike (matched)", "are read alike",
                             "by chance"], rows, left=2), ""]  # fmt: skip
    lines += [
        "- cluster: slots whose profiles (what they attend to in the encoder, head by head, as a "
        "deviation from the mean slot) correlate by 0.5 or more on average",
        "- correspondence: slots are matched by what they attend to, and tested by who reads them, "
        "which the matching has not seen; by chance: the share of random pairings that agree as "
        "well in that",
    ]
    return "\n".join(lines) + "\n"


def draw(told: Told) -> Any:
    """A panel for each checkpoint: the differences with their intervals."""
    most = max(len(effects) for _, _, effects, _ in told)
    figure = charts.new_figure(5.5 * len(told), 1.2 + 0.25 * most)
    grid = figure.subplots(1, len(told), squeeze=False, sharex=True)
    for axes, (name, _, effects, _) in zip(grid.flat, told):
        places = range(len(effects))
        axes.barh(places, [one.difference for one in effects], height=0.6,
                  color=[charts.BLUE if one.kind == "slot" else charts.GREY for one in effects],
                  xerr=[[one.difference - one.low for one in effects],
                        [one.high - one.difference for one in effects]],
                  error_kw={"ecolor": charts.BLACK, "capsize": 2})  # fmt: skip
        axes.axvline(0, color=charts.BLACK, linewidth=0.8)
        axes.set_yticks(places, [f"{one.kind} {one.number}" for one in effects], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("rise of the loss, bits a token")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def run(evaluation: Any, identity: dict[str, Any], checkpoints: list[Path], slots: int,
        layers: int, out: Path, subset: str) -> None:  # fmt: skip
    """Lesion one slot or layer at a time, and write the report.

    Args:
        evaluation: of `fairseq-mem lesion`.
        identity: what a result depends on beside checkpoint and lesion.
        checkpoints: the models.
        slots: how many are lesioned one by one; 0 for none.
        layers: likewise.
        out: the folder.
        subset: the test set's name.
    """
    wanted = [("slot", number) for number in range(slots)]
    wanted += [("layer", number) for number in range(layers)]
    digests = [sha256(path) for path in checkpoints]
    if len(set(digests)) < len(digests):
        raise UserError("a checkpoint is given twice; give seeds of one model")
    work = Singles(evaluation, identity, out)
    told = [
        Of(name, digest, work.effects(path, digest, wanted),
           work.profile(path) if slots > 0 else None)
        for name, path, digest in zip(names_of(checkpoints), checkpoints, digests)
    ]  # fmt: skip
    text = report(told, subset)
    charts.save(draw(told), out / "slots.png")
    write_text(out / "slots.csv", comma_separated(told))
    write_text(out / "slots.md", text)
    print(f"{out / 'slots.md'}: {len(wanted)} lesions, {len(checkpoints)} checkpoints")
