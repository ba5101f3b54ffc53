"""`fairseq-mem lesion`: what a trained model loses with fewer memory slots, and with lesions.

The paper's lesion experiment. Every setting goes through the doors that fairseq's own commands
use (`--model-overrides`, the generator), so the numbers are those of `fairseq-generate` with
`sacrebleu`, and of `fairseq-validate`.
"""

import argparse
import csv
import io
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from fairseq_mem_text.files import is_number, read_json, sha256
from fairseq_mem_text.lines import read_lines

from ..checkpoints import read_checkpoint
from ..errors import UserError, first_line
from ..files import write_text
from ..runs import charts
from ..runs.tables import markdown, signed
from .loading import first_folder, load_translation_model

FORMAT = 1
DEFAULT_SLOTS = (0, 2, 5, 10, 20)
LESIONS = ("no-read", "zero-read")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) == 0:
        raise argparse.ArgumentTypeError("0 is too few")
    return int(text)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser = subparsers.add_parser(
        "lesion",
        help="evaluate a model with fewer memory slots and with lesions",
        description="Translate and score a test set with the first K memory slots only, and with "
        "both lesions (no-read, zero-read) in every scope that the model has: table, CSV and "
        "chart. Stop it at any point and run it again: it continues.",
        epilog="For example: fairseq-mem lesion checkpoint_best.pt data-bin --reference test.en "
        "--out lesion",
    )
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT",
        help="a model with memory; or several of one kind that differ in their seed",
    )  # fmt: skip
    parser.add_argument("data", type=Path, metavar="DATA_BIN", help="the binarised data")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument(
        "--slots", nargs="+", type=_count, metavar="K",
        help="numbers of slots in the encoder (default: 0 2 5 10 20, as far as the model has "
        "them); all that it has come in any case",
    )  # fmt: skip
    parser.add_argument(
        "--reference", type=Path, metavar="FILE",
        help="raw reference, a sentence a line (default: the binarised target, detokenised)",
    )  # fmt: skip
    fairseqs = parser.add_argument_group("as in fairseq-generate")
    fairseqs.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    fairseqs.add_argument("--beam", type=_positive, default=4, metavar="N", help="default: 4")
    fairseqs.add_argument("--lenpen", type=float, default=1.0, metavar="X", help="default: 1")
    fairseqs.add_argument("--max-len-a", type=float, default=0.0, metavar="X", help="default: 0")
    fairseqs.add_argument("--max-len-b", type=_count, default=200, metavar="N", help="default: 200")
    fairseqs.add_argument(
        "--post-process", "--remove-bpe", nargs="?", const="subword_nmt", default="subword_nmt",
        metavar="BPE", help="what undoes the BPE: subword_nmt (default), sentencepiece, none",
    )  # fmt: skip
    fairseqs.add_argument(
        "--tokenizer", choices=("moses", "none"), default="moses",
        help="what detokenises (default: moses)",
    )  # fmt: skip
    fairseqs.add_argument(
        "--max-tokens", type=_positive, metavar="N", help="of a batch (default: 6000)"
    )
    fairseqs.add_argument("--batch-size", type=_positive, metavar="N", help="sentences a batch")
    fairseqs.add_argument("--cpu", action="store_true", help="not on the GPU")
    fairseqs.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    return parser


# ---------------------------------------------------------------- what to evaluate


@dataclass(frozen=True)
class Setting:
    """One way of evaluating a model."""

    slots: int
    lesion: str = "none"
    scope: str = ""

    @property
    def name(self) -> str:
        """For files and for people."""
        return f"slots-{self.slots}" if self.lesion == "none" else f"{self.lesion}-{self.scope}"

    @property
    def overrides(self) -> dict[str, Any]:
        """What goes through fairseq's ``--model-overrides``."""
        if self.lesion == "none":
            return {"memory_tokens": self.slots}
        return {"memory_lesion": self.lesion, "memory_lesion_scope": self.scope}


def plan(slots: int, decoder_slots: int, asked: list[int] | None) -> tuple[list[Setting], str]:
    """Choose the settings; the first is the whole model.

    Args:
        slots: how many the model has in its encoder.
        decoder_slots: and in its decoder.
        asked: ``--slots``, if given.

    Returns:
        The settings, and a note on what was left out.

    Raises:
        UserError: more slots were asked for than there are.
    """
    wanted, note = asked or DEFAULT_SLOTS, ""
    if too_many := sorted({count for count in wanted if count > slots}):
        named = ", ".join(map(str, too_many))
        if asked:
            raise UserError(
                f"the model was trained with {slots} memory tokens in its encoder and has no "
                f"{named}; give --slots at most {slots}"
            )
        note = f"left out: {named} slots; the model was trained with {slots}"
    fewer = sorted({count for count in wanted if count < slots}, reverse=True)
    settings = [Setting(count) for count in (slots, *fewer)]
    scopes = (["encoder", "cross"] if slots else []) + (["decoder"] if decoder_slots else [])
    for lesion in LESIONS:
        settings += [Setting(slots, lesion, scope) for scope in (*scopes, "all")]
    return settings, note


def memory_of(checkpoint: Path) -> tuple[int, int]:
    """How many slots a model has in its encoder and in its decoder.

    Raises:
        UserError: it cannot be read, or has none at all.
    """
    state = read_checkpoint(checkpoint)
    weights = state["model"]
    found = [weights.get(f"{side}.memory.weight") for side in ("encoder", "decoder")]
    encoder, decoder = (0 if weight is None else weight.size(0) for weight in found)
    if encoder == decoder == 0:
        raise UserError(f"{checkpoint} has no memory tokens; there is nothing to take away")
    return encoder, decoder


# ---------------------------------------------------------------- evaluating


class Evaluation:
    """The test set, and how it is translated: the same for all settings."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cuda = torch.cuda.is_available() and not args.cpu
        if args.fp16 and not self.cuda:
            raise UserError("--fp16 is for a GPU; leave it out")
        self.task: Any = None
        self.batches: list[Any] = []
        self.references: list[str] = []
        self.moses: Any = None

    def load(self, checkpoint: Path, overrides: dict[str, Any]) -> Any:
        """Load the model and, the first time, the task with its dictionaries."""
        model, _, self.task, _ = load_translation_model(
            checkpoint, self.args.data, overrides, task=self.task
        )
        model.eval()
        if self.args.fp16:
            model.half()
        return model.cuda() if self.cuda else model

    def load_data(self, model: Any) -> None:
        """Read the test set, its batches, and the references.

        Raises:
            UserError: the references do not belong to it.
        """
        from fairseq import utils

        subset, args = self.args.gen_subset, self.args
        try:
            self.task.load_dataset(subset, task_cfg=self.task.cfg)
            dataset = self.task.dataset(subset)
            for number in range(len(dataset)):
                self._check_sentence(dataset[number])
        except Exception as error:  # of many kinds: fairseq believes what the files say
            raise UserError(
                f"{subset} of {args.data} cannot be read: {first_line(error)}; binarise it again"
            ) from None
        if dataset.tgt is None:
            raise UserError(f"{subset} of {args.data} has no target side; give --gen-subset")
        try:
            batches = self.task.get_batch_iterator(
                dataset=dataset,
                max_tokens=args.max_tokens or (None if args.batch_size else 6000),
                max_sentences=args.batch_size,
                max_positions=utils.resolve_max_positions(
                    self.task.max_positions(), model.max_positions()
                ),
                required_batch_size_multiple=1,  # else fairseq drops the last sentences
                disable_iterator_cache=True,
            )
        except Exception as error:  # a sentence is too long, says fairseq
            raise UserError(f"{subset} of {args.data} cannot be used: {error}") from None
        self.batches = list(batches.next_epoch_itr(shuffle=False))
        if args.reference is None:
            self.references = self._in_order(
                (
                    int(number),
                    self._text(target[target.ne(self.task.target_dictionary.pad())], True),
                )
                for batch in self.batches
                for number, target in zip(batch["id"], batch["target"])
            )
            return
        try:
            self.references = read_lines(args.reference)
        except OSError as error:
            raise UserError(f"cannot read --reference {args.reference}: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"--reference {args.reference}: {error}") from None
        if len(self.references) != len(dataset):
            raise UserError(
                f"{args.reference} has {len(self.references)} lines, {subset} of {args.data} has "
                f"{len(dataset)} sentences; give the reference of this very set"
            )

    def _check_sentence(self, pair: dict[str, Any]) -> None:
        """Refuse numbers that stand for no word.

        Raises:
            ValueError: there is one, or the sentence has no end.
        """
        for side, words in (
            ("source", self.task.source_dictionary),
            ("target", self.task.target_dictionary),
        ):
            tokens = pair[side]
            if tokens is None:  # there may be no target
                continue
            if len(tokens) == 0 or tokens[-1] != words.eos():
                raise ValueError(f"{side} sentence {pair['id'] + 1} has no end")
            if tokens.min() < 0 or tokens.max() >= len(words):
                raise ValueError(
                    f"{side} sentence {pair['id'] + 1} has words that are not in the dictionary"
                )

    def _in_order(self, numbered: Iterable[tuple[int, str]]) -> list[str]:
        texts = dict(numbered)
        assert sorted(texts) == list(range(len(self.task.dataset(self.args.gen_subset))))
        return [texts[number] for number in range(len(texts))]

    def _text(self, tokens: Any, is_reference: bool = False) -> str:
        """Words of the dictionary to plain text, as ``fairseq-generate`` prints it."""
        words = self.task.target_dictionary.string(
            tokens.int().cpu(), self.args.post_process, escape_unk=is_reference
        )
        if self.args.tokenizer == "none":
            return words
        from fairseq.data.encoders import build_tokenizer

        if self.moses is None:
            self.moses = build_tokenizer(
                argparse.Namespace(
                    tokenizer="moses",
                    source_lang=self.task.cfg.source_lang,
                    target_lang=self.task.cfg.target_lang,
                    moses_no_dash_splits=False,
                    moses_no_escape=False,
                )
            )
        return self.moses.decode(words)

    @torch.no_grad()
    def evaluate(self, checkpoint: Path, setting: Setting, title: str) -> dict[str, Any]:
        """Evaluate one setting of one model.

        Returns:
            BLEU, its signature, the loss (bits a token, without label smoothing), the
            translations.
        """
        from fairseq import utils
        from fairseq.dataclass.configs import GenerationConfig
        from sacrebleu.metrics import BLEU
        from tqdm import tqdm

        start = time.monotonic()
        model = self.load(checkpoint, setting.overrides)
        if not self.batches:
            self.load_data(model)
        with tqdm(total=2 * len(self.references), desc=title, disable=None, leave=False) as bar:
            loss, tokens = 0.0, 0
            for batch in self._moved(utils):
                loss += self._loss(model, batch)
                tokens += batch["ntokens"]
                bar.update(len(batch["id"]))

            args = self.args
            config = GenerationConfig(
                beam=args.beam, lenpen=args.lenpen, max_len_a=args.max_len_a,
                max_len_b=args.max_len_b,
            )  # fmt: skip
            model.prepare_for_inference_(argparse.Namespace(generation=config))
            generator = self.task.build_generator([model], config)
            numbered = []
            for batch in self._moved(utils):
                found = self.task.inference_step(generator, [model], batch)
                for number, hypotheses in zip(batch["id"], found):
                    numbered.append((int(number), self._text(hypotheses[0]["tokens"])))
                bar.update(len(batch["id"]))
        translations = self._in_order(numbered)
        metric = BLEU(trg_lang=self.task.cfg.target_lang or "")
        score = metric.corpus_score(translations, [self.references]).score
        return {
            "BLEU": score,
            "signature": str(metric.get_signature()),
            "loss": loss / tokens / math.log(2),
            "sentences": len(translations),
            "seconds": round(time.monotonic() - start, 1),
            "translations": translations,
        }

    def _moved(self, utils: Any) -> Iterable[Any]:
        for batch in self.batches:
            yield utils.move_to_cuda(batch) if self.cuda else batch

    def _loss(self, model: Any, batch: Any) -> float:
        """The summed loss of a batch's target, teacher-forced, in nats."""
        output = model(**batch["net_input"])
        log_probs = model.get_normalized_probs(output, log_probs=True, sample=batch)  # B x T x V
        target = batch["target"]
        chosen = log_probs.gather(2, target.unsqueeze(2)).squeeze(2)
        return -chosen[target.ne(self.task.target_dictionary.pad())].double().sum().item()


# ---------------------------------------------------------------- results on the disk


def fingerprint(args: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside checkpoint and setting: it is kept with the result."""
    files = sorted(
        path
        for path in args.data.glob("*")
        if path.name.startswith((f"{args.gen_subset}.", "dict."))
    )
    if not any(path.name.startswith(f"{args.gen_subset}.") for path in files):
        raise UserError(f"no {args.gen_subset} in {args.data}; give the folder of binarised data")
    if args.reference is not None and not args.reference.is_file():
        raise UserError(f"there is no reference {args.reference}; check its name")
    names = (
        "gen_subset", "beam", "lenpen", "max_len_a", "max_len_b", "post_process", "tokenizer",
        "fp16",
    )  # fmt: skip
    return {
        "format": FORMAT,
        **{name: getattr(args, name) for name in names},
        "data": {path.name: sha256(path) for path in files},
        "reference": sha256(args.reference) if args.reference else None,
    }


def stored(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier result; None if there is none, or it is damaged.

    Raises:
        UserError: it was made from something else.
    """
    try:
        result = read_json(path)
        numbers = (result.get(name) for name in ("BLEU", "loss", "sentences"))
        texts = (result.get(name) for name in ("signature", "versions"))
        if not all(map(is_number, numbers)) or not all(isinstance(text, str) for text in texts):
            raise ValueError
        if not isinstance(result.get("settings"), dict):
            raise ValueError
    except FileNotFoundError:
        return None
    except ValueError:
        print(f"{path} is damaged; it is made again", file=sys.stderr)
        return None
    for name, value in settings.items():
        if (there := result["settings"].get(name)) != value:
            here = value
            told = f"another {name}" if isinstance(here, dict) else f"{name} {there}, not {here}"
            raise UserError(f"{path} was made with {told}; choose another --out")
    return result


# ---------------------------------------------------------------- telling

Results = dict[Setting, list[dict[str, Any]]]  # a result for each checkpoint


@dataclass
class Row:
    """A setting's means over the checkpoints."""

    setting: Setting
    bleu: list[float]
    loss: list[float]

    def text(self) -> str:
        """What the setting is."""
        if self.setting.lesion != "none":
            return f"{self.setting.lesion}, {self.setting.scope}"
        return f"{self.setting.slots} {'slot' if self.setting.slots == 1 else 'slots'}"


def spread(values: list[float]) -> float | None:
    """The sample standard deviation; of one value there is none."""
    return stdev(values) if len(values) > 1 else None


def rows_of(results: Results) -> list[Row]:
    """The table's rows, the whole model first."""
    return [
        Row(setting, [one["BLEU"] for one in some], [one["loss"] for one in some])
        for setting, some in results.items()
    ]


def tell(rows: list[Row], results: Results, note: str, args: argparse.Namespace) -> str:
    """The report in Markdown."""
    several = len(rows[0].bleu) > 1
    head = ["setting", "BLEU", "difference", "loss", "difference"]
    table = []
    for row in rows:
        line = [row.text() + (" (all)" if row is rows[0] else "")]
        for values, whole, digits in (
            (row.bleu, rows[0].bleu, 2),
            (row.loss, rows[0].loss, 3),
        ):
            deviation = spread(values)
            line.append(
                f"{fmean(values):.{digits}f}"
                + ("" if deviation is None else f" ± {deviation:.{digits}f}")
            )
            line.append("" if row is rows[0] else signed(fmean(values) - fmean(whole), digits))
        table.append(line)
    first = results[rows[0].setting][0]
    where = "the reference given" if args.reference else "the binarised target, detokenised"
    lines = ["# Lesions of memory", ""]
    if several:
        lines += [f"Means and sample standard deviations of {len(rows[0].bleu)} checkpoints.", ""]
    lines += [
        f"{first['sentences']:,} sentences of {args.gen_subset}, beam {args.beam}, length penalty "
        f"{args.lenpen:g}; BLEU against {where}. The loss is of the reference, teacher-forced, in "
        "bits a token (fairseq-validate's `nll_loss`). Differences are to the whole model.",
        "",
        "![lesion](lesion.png)",
        "",
        *markdown(head, table),
        "",
        "- no-read: text may not attend to memory; zero-read: what it attends to memory is set to "
        "zero after the softmax. encoder: in the encoder; cross: in the decoder's attention to "
        "the encoder; decoder: in the decoder's attention to itself; all: everywhere",
    ]
    for signature in sorted({one["signature"] for some in results.values() for one in some}):
        lines.append(f"- signature: `{signature}`")
    for versions in sorted({one["versions"] for some in results.values() for one in some}):
        lines.append(f"- versions: {versions}")
    for path, one in zip(args.checkpoints, results[rows[0].setting]):
        lines.append(f"- checkpoint: `{path.name}`, sha256 {one['settings']['checkpoint']}")
    if note:
        lines.append(f"- {note}")
    return "\n".join(lines) + "\n"


def comma_separated(rows: list[Row]) -> str:
    """The report as CSV: a line for each setting."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        "slots", "lesion", "scope", "checkpoints", "BLEU", "BLEU_standard_deviation",
        "BLEU_by_checkpoint", "loss", "loss_standard_deviation", "loss_by_checkpoint",
    ])  # fmt: skip
    for row in rows:
        writer.writerow([
            row.setting.slots, row.setting.lesion, row.setting.scope, len(row.bleu),
            fmean(row.bleu), spread(row.bleu), " ".join(map(str, row.bleu)),
            fmean(row.loss), spread(row.loss), " ".join(map(str, row.loss)),
        ])  # fmt: skip
    return text.getvalue()


def draw(rows: list[Row]) -> Any:
    """Slots against BLEU and loss as lines; below, lesions as bars."""
    slots = sorted(
        (row for row in rows if row.setting.lesion == "none"), key=lambda row: row.setting.slots
    )
    bars = [rows[0], *(row for row in rows if row.setting.lesion != "none")]
    heights = [3.0, 1.0 + 0.35 * len(bars)]
    figure = charts.new_figure(10, sum(heights))
    grid = figure.subplots(2, 2, gridspec_kw={"height_ratios": heights})
    for column, (name, better) in enumerate((("BLEU", "higher"), ("loss", "lower"))):
        values = [getattr(row, name.lower()) for row in slots]
        charts.draw_line(
            grid[0][column], [row.setting.slots for row in slots], values,
            "memory slots", f"{name} ({better} is better)",
        )  # fmt: skip
        charts.draw_bars(
            grid[1][column],
            [
                charts.Bar(row.text(), some, fmean(some), spread(some), row is rows[0])
                for row in bars
                for some in [getattr(row, name.lower())]
            ],
            name,
            better,
        )
    return figure


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    args.data = first_folder(args.data)
    charts.new_figure(1, 1)  # is matplotlib there? hours later is too late
    evaluation = Evaluation(args)
    memory = [memory_of(path) for path in args.checkpoints]
    for path, found in zip(args.checkpoints, memory):
        if found != memory[0]:
            raise UserError(
                f"{args.checkpoints[0]} has {memory[0][0]} + {memory[0][1]} memory tokens (encoder "
                f"+ decoder), {path} has {found[0]} + {found[1]}; give seeds of one model"
            )
    settings, note = plan(*memory[0], args.slots)
    if note:
        print(note, file=sys.stderr)

    common = fingerprint(args)
    work: list[tuple[Path, Setting, Path, dict[str, Any]]] = []
    seen: dict[str, Path] = {}
    for checkpoint in args.checkpoints:
        digest = sha256(checkpoint)
        if digest in seen:
            raise UserError(f"{checkpoint} holds the same as {seen[digest]}; it would count twice")
        seen[digest] = checkpoint
        for setting in settings:
            path = args.out / "results" / digest[:12] / f"{setting.name}.json"
            work.append((checkpoint, setting, path, {"checkpoint": digest, **common}))
    results: Results = {setting: [] for setting in settings}
    done = {path: stored(path, identity) for _, _, path, identity in work}  # refuse before work
    for number, (checkpoint, setting, path, identity) in enumerate(work, 1):
        title = f"{number}/{len(work)} {checkpoint.name} {setting.name}"
        result = done[path]
        if result is None:
            fresh = evaluation.evaluate(checkpoint, setting, title)
            write_text(path.with_suffix(".txt"), "\n".join(fresh.pop("translations")) + "\n")
            packages = ("fairseq-fixed", "torch", "sacrebleu")
            result = {
                "settings": identity, **asdict(setting), **fresh,
                "versions": ", ".join(f"{name} {version(name)}" for name in packages),
            }  # fmt: skip
            write_text(path, json.dumps(result, indent=1) + "\n")
        told = "" if done[path] is None else " (done before)"
        print(
            f"{title}: BLEU {result['BLEU']:.2f}, loss {result['loss']:.3f}{told}", file=sys.stderr
        )
        results[setting].append(result)

    rows = rows_of(results)
    charts.save(draw(rows), args.out / "lesion.png")
    write_text(args.out / "lesion.csv", comma_separated(rows))
    write_text(args.out / "lesion.md", tell(rows, results, note, args))
    print(
        f"{args.out / 'lesion.md'}: {len(settings)} settings, {len(args.checkpoints)} checkpoints"
    )
