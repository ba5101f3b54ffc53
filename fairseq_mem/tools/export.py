"""`fairseq-mem export`: a trained model as a folder for CTranslate2, without fairseq or torch.

CTranslate2 knows no memory, but it knows words. The encoder's slots become words of the source's
vocabulary, whose embedding is the slot divided by the embedding's scale, and the caller writes them
in front of every source; the position table gets m rows in front, zeros unless memory takes
position codes. The decoder's slots become words of the target's vocabulary in the same way: the
first is the start token, the others and the end mark, with which fairseq's decoder starts, are
forced as a target prefix. Under the causal mask a slot sees earlier slots and the encoder's output,
as in our decoder. A bias of -30000 keeps slots from ever being written: their probability is an
exact zero. Layers are converted by `ctranslate2.converters`' own functions.

The folder, format 1:

- ``model.bin``, ``config.json`` and ``shared_vocabulary.json``, or ``source_vocabulary.json`` and
  ``target_vocabulary.json``: CTranslate2's. It adds the end mark to the source and begins the
  target with the start token by itself.
- ``code``: the BPE merges for the source; absent if the data has none. ``target_code``: those for
  the target, where they are others.
- ``fairseq_mem.json``:

  - ``format``: 1; ``fairseq_mem``: the version that wrote it; ``quantization``: as asked for
  - ``compute_type``: to load the model with; CTranslate2's guess of its own, "default", may be
    misled by position codes in float16, which int8 has, and then warns or computes in float16
  - ``source_language``, ``target_language``
  - ``source_prefix``: words to put in front of every source: the encoder's memory
  - ``decoder_start_token``: of config.json; the first slot of the decoder's memory, or the end mark
  - ``target_prefix``: words to force after it: the other slots and the end mark; [] without memory
  - ``text_end``: the word for an end mark inside a source, where no memory is in front of it: a
    source of one other word or none, CTranslate2 would not translate; else null
  - ``eos``: the end mark
  - ``tokenizer``: "moses" (with fairseq's aggressive dash splits) or null; ``normalize``: whether
    Moses' punctuation normalisation comes before; ``remove_nonprinting``: whether that takes out
    control characters (absent: no); ``nfc``: whether characters are composed before (Unicode's
    NFC; absent: no); ``bpe``: "subword_nmt" or null; ``target_code``: the file of the merges that a
    given translation goes through, or null (absent in exports of older versions)
  - ``dictionaries``: the number of words and a checksum of them, of ``source`` and ``target``
    (absent in exports of older versions)
  - ``max_source_tokens``: of a text, with its end mark, without memory
  - ``max_target_tokens``: of a translation, with its end mark, without memory
  - ``sha256``: of every other file, by name

Whoever searches must mind that CTranslate2 counts the target prefix in its length limits and in the
length by which it divides scores (the prefix's own probabilities it leaves out, as it should), and
that at the length limit fairseq has the end mark follow and counts its probability, where
CTranslate2 just stops; a hypothesis that ends in the last step before takes the place of one of
those in CTranslate2's beam, not in fairseq's. What it is told to forbid (padding, the end mark at
the first step) it takes out in front of the softmax, fairseq behind it; and of hypotheses that end
in a search's last step it keeps the best by its measure of all, fairseq those that ended first.
Padding inside a source is to be left out, which is as if it were masked.
`fairseq_mem_serve` sees to all this.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.files import partial_name, sha256
from fairseq_mem_text.settings import settings_of

from .. import __version__
from ..checkpoints import kind
from ..dictionaries import fingerprints
from ..errors import UserError
from ..literals import shown
from .conversion import ACTIVATIONS, convert
from .loading import load_translation_model

QUANTIZATIONS = ("int8", "int8_float32", "float16", "bfloat16", "float32")
EXPORTABLE = (
    "transformer and mem_transformer models (--memory-update shared) of the translation task can "
    "be, with fairseq's usual layers and softmax"
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the sub-command to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write a model that CTranslate2 runs, without fairseq or torch",
        description="Write a trained model, its memory, vocabulary and BPE codes into a folder "
        "for CTranslate2; `fairseq-mem translate` and fairseq-mem-serve translate raw text.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("data", metavar="DATA_BIN", type=Path, help="the model's binarised data")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the new folder")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        default="float32",
        help="of the weights (default float32). int8 is the smallest; int8_float32 keeps all but "
        "the weights in float32, where int8 has position codes in float16. float16 and bfloat16 "
        "halve the file; a CPU that cannot compute with them well loads them as float32, with a "
        "warning, and is as fast as with that",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    parser.add_argument(
        "--tokenizer",
        choices=("moses", "none"),
        help="of the training text (default: what preprocess.sh did, none for other data)",
    )
    parser.add_argument(
        "--bpe-codes", metavar="FILE", type=Path, help="BPE merges (default: DATA_BIN/code, if any)"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the sub-command."""
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    export(
        args.checkpoint,
        args.data,
        args.out,
        args.quantization,
        force=args.force,
        tokenizer=args.tokenizer,
        codes=args.bpe_codes,
    )
    size = (args.out / "model.bin").stat().st_size / 1e6
    print(f"{args.out}: {args.quantization}, {size:.1f} MB; try: fairseq-mem translate {args.out}")


def export(
    checkpoint: Path,
    data: Path,
    out: Path,
    quantization: str = "float32",
    *,
    force: bool = False,
    tokenizer: str | None = None,
    codes: Path | None = None,
) -> None:
    """Write the folder ``out``: all of it, or nothing.

    Args:
        checkpoint: of fairseq's ``transformer`` or of a ``mem_transformer``.
        data: folder of the binarised data, for its dictionaries, BPE codes and settings.
        out: must not exist, or with ``force`` be an earlier export.
        quantization: one of ``QUANTIZATIONS``.
        force: replace what is in ``out``.
        tokenizer: ``"moses"``, ``"none"``, or None for what the data's settings say.
        codes: file of BPE merges; None for the data's.

    Raises:
        UserError: the model cannot be exported, or a file is missing or in the way.
    """
    if importlib.util.find_spec("ctranslate2") is None:  # installed without what we require
        raise UserError("export needs ctranslate2; run: pip install 'ctranslate2>=4.5,<5'")
    from fairseq_mem_serve.folder import DESCRIPTION, FORMAT

    _check_target(out, force)
    if codes is not None and not codes.is_file():
        raise UserError(f"--bpe-codes {codes}: there is no such file")
    model, _, task, data = load_translation_model(
        checkpoint, data, check=partial(_check_options, checkpoint)
    )
    unknown = [name for name in model.state_dict() if not _is_known(name)]
    if unknown:
        raise _refused(checkpoint, [f"CTranslate2 has no {unknown[0]}"])
    model = model.float().eval()
    try:
        text = settings_of(data, task.cfg.source_lang, tokenizer, codes)
        target_codes = settings_of(data, task.cfg.target_lang, tokenizer, codes).codes
    except TextError as error:
        raise UserError(str(error)) from error
    for path in (text.codes, target_codes):
        if path is not None:
            _check_codes(path)
    with torch.no_grad():
        spec, memory = convert(model, task, quantization)
    description = {
        "format": FORMAT,
        "fairseq_mem": __version__,
        "quantization": quantization,
        "compute_type": "int8_float32" if quantization.startswith("int8") else "default",
        "source_language": task.cfg.source_lang,
        "target_language": task.cfg.target_lang,
        "source_prefix": memory.source,
        "decoder_start_token": spec.config.decoder_start_token,
        "target_prefix": memory.forced,
        "text_end": memory.text_end,
        "eos": spec.config.eos_token,
        "tokenizer": text.tokenizer,
        "normalize": text.normalize,
        "remove_nonprinting": text.remove_nonprinting,
        "nfc": text.nfc,
        "bpe": None if text.codes is None else "subword_nmt",
        "target_code": target_codes and ("code" if target_codes == text.codes else "target_code"),
        "dictionaries": fingerprints(task),
        "max_source_tokens": model.encoder.max_positions(),
        "max_target_tokens": model.decoder.max_positions(),
    }
    target = Path(os.path.realpath(out))  # what a link points to
    fresh = partial_name(target)
    replaced = fresh.with_suffix(".replaced")
    fresh.mkdir(parents=True)
    try:
        spec.save(str(fresh))
        if text.codes is not None:
            shutil.copyfile(text.codes, fresh / "code")
        if target_codes is not None and target_codes != text.codes:
            shutil.copyfile(target_codes, fresh / "target_code")
        description["sha256"] = _digests(fresh)
        written = json.dumps(description, indent=2, ensure_ascii=False)
        (fresh / DESCRIPTION).write_text(written + "\n", encoding="utf-8")
        if target.exists():
            target.rename(replaced)
        try:
            fresh.rename(target)
        except BaseException:
            if replaced.exists():
                replaced.rename(target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file, by which a damaged copy is told."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def _check_target(out: Path, force: bool) -> None:
    """Refuse to overwrite what we were not told to, or what is no export."""
    if not os.path.lexists(out):
        return
    if not force:
        raise UserError(f"{out} is there already; give --force to replace it, or another --out")
    from fairseq_mem_serve.folder import DESCRIPTION

    if not out.is_dir() or not ((out / DESCRIPTION).is_file() or not any(out.iterdir())):
        raise UserError(
            f"{out} holds no export, so --force does not replace it; give another --out"
        )


# ------------------------------------------------------------ what the model needs of the data


def _check_codes(codes: Path) -> None:
    """Refuse what subword-nmt cannot read, before the folder that would hold it is there."""
    from subword_nmt.apply_bpe import BPE

    try:  # it prints a page, and exits; versions that it does not know it tells when it is used
        with codes.open(encoding="utf-8-sig") as lines, contextlib.redirect_stderr(io.StringIO()):
            BPE(lines).process_line("ab")
    except (SystemExit, ValueError, NotImplementedError):
        raise UserError(
            f"{codes} holds no BPE merges of subword-nmt; give the file that the data was made "
            "with as --bpe-codes"
        ) from None


# ------------------------------------------------------------ what CTranslate2 can express


def _refused(checkpoint: Path, reasons: Sequence[str]) -> UserError:
    return UserError(f"{checkpoint} cannot be exported: {', '.join(reasons)}; {EXPORTABLE}")


def _check_options(checkpoint: Path, state: dict[str, Any]) -> None:
    """Refuse what CTranslate2 cannot express, by the options that the model was trained with."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    task, arch = kind(state)
    if task not in ("translation", "document_translation"):
        raise _refused(checkpoint, [f"its task is {shown(task)}"])
    args = state["cfg"].model
    if ARCH_MODEL_NAME_REGISTRY.get(arch) not in ("transformer", "mem_transformer"):
        raise _refused(checkpoint, [f"its architecture is {shown(arch)}"])

    def option(name: str, default: Any = None) -> Any:
        return getattr(args, name, default)

    memory = option("memory_tokens", 0) + option("memory_decoder_tokens", 0)
    update, lesion = option("memory_update", "shared"), option("memory_lesion", "none")
    activation = option("activation_fn", "relu")
    width = option("decoder_embed_dim")
    context = getattr(state["cfg"].task, "context_sentences", None) or 0
    recurrence = option("memory_recurrence", 0) if option("memory_tokens", 0) > 0 else 0
    reasons = {
        f"--memory-recurrence {recurrence}, and CTranslate2 hands no memory on": recurrence > 0,
        f"--context-sentences {context}": context > 0,
        f"--memory-update {update}": update != "shared",
        f"--memory-lesion {lesion}": lesion != "none",
        f"--memory-static {option('memory_static', 0)}": option("memory_static", 0) > 0,
        "--attention-sink": option("attention_sink"),
        "--layernorm-embedding would normalise memory too": (
            memory > 0 and option("layernorm_embedding")
        ),
        f"--activation-fn {activation}": activation not in ACTIVATIONS,
        "adaptive softmax": option("adaptive_softmax_cutoff") is not None,
        "--cross-self-attention": option("cross_self_attention"),
        "--no-cross-attention": option("no_cross_attention"),
        "--no-token-positional-embeddings": option("no_token_positional_embeddings"),
        "--quant-noise-pq and --quant-noise-scalar": any(
            option(f"quant_noise_{kind}", 0) > 0 for kind in ("pq", "scalar")
        ),
        "--base-layers": option("base_layers", 0) > 0,
        "xformers' attention": any(
            option(f"{side}_xformers_att_config") is not None for side in ("encoder", "decoder")
        ),
        "--decoder-input-dim and --decoder-output-dim other than --decoder-embed-dim": any(
            option(name, width) != width for name in ("decoder_input_dim", "decoder_output_dim")
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise _refused(checkpoint, found)


_NORMS = {"layer_norm", "layernorm_embedding"}
_OF_A_LAYER = {
    *(f"{kind}.{name}_proj" for kind in ("self_attn", "encoder_attn") for name in "qkv"),
    *("self_attn.out_proj", "encoder_attn.out_proj", "fc1", "fc2"),
    *("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def _is_known(name: str) -> bool:
    """Whether a parameter is one that we or CTranslate2's converter look at."""
    _, *parts = name.split(".")  # encoder or decoder
    if parts[0] == "layers":
        return ".".join(parts[2:-1]) in _OF_A_LAYER and parts[-1] in ("weight", "bias")
    if parts[0] in _NORMS:
        return parts[-1] in ("weight", "bias")
    return ".".join(parts) in {
        "version", "embed_tokens.weight", "embed_positions.weight", "output_projection.weight",
        "memory.weight", "memory.position_offset",
    }  # fmt: skip
