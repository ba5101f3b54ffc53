"""Loading what `fairseq-mem export` wrote: the model, and what happens to its text."""

import os
from pathlib import Path
from typing import Any

import ctranslate2
from fairseq_mem_text.pipeline import TextPipeline

from .engine import CTranslate2Engine
from .folder import check_files, embedded_words, read_description, read_vocabulary
from .protocol import END
from .translator import Translator


def load_translator(
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    inter_threads: int = 1,
    compute_type: str = "default",
) -> Translator:
    """Load an exported model.

    Args:
        folder: what `fairseq-mem export` wrote.
        device: "cpu", "cuda" or "auto".
        threads: of the CPU, for each batch; None leaves the choice to CTranslate2.
        inter_threads: batches that are searched at the same time, on a CPU.
        compute_type: CTranslate2's; "default" is the quantization that was exported.

    Raises:
        FileNotFoundError: ``folder`` holds no exported model.
        ValueError: the model is of another format, or damaged, or cannot run as asked for.
    """
    folder = Path(folder)
    description = read_description(folder)
    check_files(folder, description)
    words = embedded_words(folder)
    vocabularies = [read_vocabulary(folder, side, words.get(side)) for side in ("source", "target")]
    try:
        model = ctranslate2.Translator(
            str(folder),
            device=device,
            compute_type=description.get("compute_type", "default")
            if compute_type == "default"
            else compute_type,
            inter_threads=inter_threads,
            intra_threads=threads or 0,
        )
    # from C++, whose exceptions become these
    except (RuntimeError, ValueError, IndexError, OverflowError, MemoryError) as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"CTranslate2 cannot load {folder}: {what}") from error
    engine = CTranslate2Engine(
        model,
        source_prefix=description["source_prefix"],
        target_prefix=description["target_prefix"],
        start_token=description.get("decoder_start_token", END),
        text_end=description.get("text_end"),
        vocabularies=vocabularies,
        max_source_tokens=description["max_source_tokens"],
        max_target_tokens=description["max_target_tokens"],
        parallel=model.num_translators,
    )
    codes = "code" if description["bpe"] else None
    text = text_pipeline(folder, description, ("source", "target"), codes)

    def target_text() -> TextPipeline:
        # older exports tell nothing of the target's merges: nearly always they are the source's
        target_codes = description.get("target_code", codes)
        return text_pipeline(folder, description, ("target", "source"), target_codes)

    return Translator(engine, text, target_text)


def text_pipeline(
    folder: Path, description: dict[str, Any], sides: tuple[str, str], codes: str | None
) -> TextPipeline:
    """What text of the first side goes through, and what comes back as text of the second.

    Args:
        folder: where ``codes`` is.
        description: of the model.
        sides: "source" and "target", in either order.
        codes: the file of merges, if there are any.
    """
    languages = [description[f"{side}_language"] for side in sides]
    return TextPipeline(
        *languages,
        codes=None if codes is None else folder / codes,
        tokenizer=description["tokenizer"],
        normalize=description.get("normalize", True),
        remove_nonprinting=description.get("remove_nonprinting", False),
        nfc=description.get("nfc", False),
    )
