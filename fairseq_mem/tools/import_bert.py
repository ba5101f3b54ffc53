"""`fairseq-mem import-bert`: a BERT of Hugging Face's form becomes a checkpoint of mem_roberta."""

import argparse
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mem_text.files import partial_name, read_json

from ..errors import UserError
from ..files import write_checkpoint, write_text

if TYPE_CHECKING:
    from .bert_folder import Bert

MODEL, DICTIONARY, FLAGS = "model.pt", "dict.txt", "flags.txt"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser = subparsers.add_parser(
        "import-bert",
        help="make a mem_roberta checkpoint of a BERT's weights",
        description="Read a folder with a BERT as Hugging Face saves it (config.json, vocab.txt, "
        "model.safetensors; never a pickle) and write model.pt, a checkpoint of mem_roberta "
        "without memory, dict.txt, tokenizer.json (WordPiece, for the data) and flags.txt (the "
        "options of fairseq-train that fit). Training that begins with it adds memory.",
        epilog="For example: fairseq-mem import-bert bert-base-cased --out imported",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the BERT")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument(
        "--pooler", action="store_true",
        help="take BERT's pooler along: new classification heads that read <s> begin with it",
    )  # fmt: skip
    case = parser.add_mutually_exclusive_group()
    case.add_argument(
        "--lowercase", dest="lowercase", action="store_true", default=None,
        help="the vocabulary is of lower-cased text (default: as tokenizer_config.json says, or, "
        "without it, if no word of vocab.txt has a capital)",
    )  # fmt: skip
    case.add_argument(
        "--cased", dest="lowercase", action="store_false", help="it is not lower-cased"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    import logging

    from ..wordpiece import NAME, make_tokenizer
    from .bert_folder import read_bert

    bert = read_bert(args.folder)
    if args.pooler and bert.pooler is None:
        raise UserError(f"{args.folder} has no pooler; leave out --pooler")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is no folder; give another place")
    lowercase, accents, chinese = _text_settings(args.folder, bert.vocabulary, args.lowercase)
    tokenizer = make_tokenizer(bert.vocabulary, lowercase, accents, chinese)
    flags = flags_of(bert)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    partial = partial_name(args.out)  # all of it, or nothing
    try:
        # not by its own `save`, whose errors have no class
        write_text(partial / NAME, tokenizer.to_str(pretty=True))
        write_text(partial / DICTIONARY, "".join(f"{word} 1\n" for word in bert.words))
        write_text(partial / FLAGS, " ".join(flags) + "\n")
        _write_checkpoint(partial, bert, flags, args.pooler)
        _put(partial, args.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    parts = f"{bert.config.layers} layers of {bert.config.width}, {len(bert.vocabulary)} words"
    parts += ", lower-cased" if lowercase else ", cased"
    parts += "" if bert.has_word_head else ", no head for masked words"
    print(f"{args.out / MODEL}: {parts}")
    print(f"train with: --finetune-from-model {args.out / MODEL} $(cat {args.out / FLAGS})")


def _put(made: Path, out: Path) -> None:
    """Give a folder that is complete its name; of an earlier import nothing is mixed with it."""
    if not out.exists():
        made.rename(out)
        return
    (out / MODEL).unlink(missing_ok=True)  # without it, what is there is no model; it comes last
    for path in sorted(made.iterdir(), key=lambda path: path.name == MODEL):
        os.replace(path, out / path.name)


def flags_of(bert: "Bert") -> list[str]:
    """The options of ``fairseq-train`` with which the model is this BERT."""
    config = bert.config
    flags = [
        "--arch", "mem_roberta", "--encoder-layers", str(config.layers),
        "--encoder-embed-dim", str(config.width), "--encoder-ffn-embed-dim", str(config.inner),
        "--encoder-attention-heads", str(config.heads), "--max-positions", str(config.positions),
        "--activation-fn", config.activation, "--memory-segments", str(config.segments),
        "--memory-norm-epsilon", repr(config.epsilon), "--dropout", repr(config.dropout),
        "--attention-dropout", repr(config.attention_dropout),
    ]  # fmt: skip
    if not bert.has_word_head:
        flags.append("--memory-no-word-head")
    elif not bert.tied:
        flags.append("--untie-weights-roberta")
    return flags


def _text_settings(
    folder: Path, vocabulary: dict[str, int], lowercase: bool | None
) -> tuple[bool, bool | None, bool]:
    """Whether text is lower-cased, loses its accents, and has Chinese characters set apart."""
    path = folder / "tokenizer_config.json"
    found: dict[str, Any] = {}
    if path.exists():
        try:
            found = read_json(path)
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}; fetch it again") from None
    accents, chinese = found.get("strip_accents"), found.get("tokenize_chinese_chars", True)
    if lowercase is None:
        lowercase = found.get("do_lower_case")
    if lowercase is None:
        special = {"[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"}
        lowercase = not any(
            word != word.lower() for word in vocabulary if word not in special
        )  # fmt: skip
    for name, value in (("do_lower_case", lowercase), ("tokenize_chinese_chars", chinese)):
        if not isinstance(value, bool):
            raise UserError(f"{path} has {name} {str(value)[:60]!r}; it must be true or false")
    if not isinstance(accents, bool | None):
        raise UserError(f"{path} has strip_accents {str(accents)[:60]!r}; it must be true or false")
    return lowercase, accents, chinese


def _write_checkpoint(out: Path, bert: "Bert", flags: list[str], with_pooler: bool) -> None:
    """Write ``model.pt`` as fairseq would, and see that fairseq's model takes it."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from omegaconf import OmegaConf

    words = [str(out), "--task", "masked_lm", "--criterion", "masked_lm", *flags]
    words += ["--tokens-per-sample", str(bert.config.positions), "--memory-tokens", "0"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), words)
    with warnings.catch_warnings():  # hydra's, of how fairseq calls it
        warnings.simplefilter("ignore", UserWarning)
        cfg = convert_namespace_to_omegaconf(parsed)
    task = tasks.setup_task(cfg.task)
    if len(task.source_dictionary) != len(bert.vocabulary):
        raise UserError(
            f"fairseq reads {len(task.source_dictionary)} of the {len(bert.vocabulary)} words of "
            "vocab.txt: its dictionary cannot hold the others; give the vocabulary of a BERT"
        )
    model = task.build_model(cfg.model)
    weights = dict(bert.weights)
    model.load_state_dict(dict(weights), strict=True)
    if with_pooler and bert.pooler is not None:
        weights["pooler.dense.weight"], weights["pooler.dense.bias"] = bert.pooler
    cfg.task.data = cfg.model.data = "."  # beside the checkpoint, wherever that is
    saved: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    saved["model"] = cfg.model
    state = {
        "args": None,
        "cfg": saved,
        "model": weights,
        "optimizer_history": [{
            "criterion_name": "MaskedLmLoss", "optimizer_name": "FairseqAdam",
            "lr_scheduler_state": {}, "num_updates": 0,
        }],
        "task_state": {},
        "extra_state": {},
    }  # fmt: skip
    write_checkpoint(out / MODEL, state)
