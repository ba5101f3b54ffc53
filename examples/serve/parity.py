"""Is an exported model the model? fairseq-generate and CTranslate2 on the same test set.

    python examples/serve/parity.py CHECKPOINT DATA_BIN [--source FILE --reference FILE]

Raw text goes in and comes out on both sides, so that tokenizer and BPE are compared too. Prints a
table and ends with status 1 if an export misses one of the goals below.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from fairseq_mem_serve import load_translator
from fairseq_mem_text.arguments import positive
from fairseq_mem_text.lines import read_lines
from fairseq_mem_text.settings import read_settings
from sacrebleu.metrics import BLEU

import fairseq_mem
from fairseq_mem.tools.export import export

SAME = 0.99  # of the float32 export's translations
SCORE = 1e-3  # by which a score may differ where the translation is the same
FLOAT32_BLEU, INT8_BLEU = 0.05, 0.3  # by which BLEU may differ
INT8_SIZE = 0.30  # of the float32 model file


class Translation(NamedTuple):
    """What a system made of one sentence."""

    text: str
    score: float  # natural logarithm


def by_fairseq(args: argparse.Namespace) -> tuple[list[Translation], float]:
    """The test set's translations and how long the search took, from fairseq-generate."""
    command = [sys.executable, "-m", "fairseq_cli.generate", str(args.data)]
    command += [
        "--user-dir",
        str(Path(fairseq_mem.__file__).parent),
        "--path",
        str(args.checkpoint),
    ]
    command += ["--beam", str(args.beam), "--lenpen", str(args.length_penalty)]
    command += ["--max-len-a", "1.2", "--max-len-b", "10", "--max-tokens", "4000", "--cpu"]
    command += ["--required-batch-size-multiple", "1", "--remove-bpe", "--tokenizer", "moses"]
    command += ["--source-lang", args.languages[0], "--target-lang", args.languages[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"fairseq-generate failed: {done.stderr.strip().splitlines()[-1]}")
    scores, texts = {}, {}
    for line in done.stdout.split("\n"):
        found = re.match(r"([HD])-(\d+)\t(\S+)\t(.*)", line)
        if found:
            # fairseq prints logarithms to the base of 2
            scores[int(found[2])] = float(found[3]) * math.log(2)
            if found[1] == "D":
                texts[int(found[2])] = found[4]
    speed = re.search(r"\(([\d.]+) sentences/s", done.stdout + done.stderr)
    seconds = len(texts) / float(speed[1]) if speed else math.nan
    return [Translation(texts[number], scores[number]) for number in sorted(texts)], seconds


def by_ctranslate2(
    args: argparse.Namespace, quantization: str, sources: list[str]
) -> tuple[list[Translation], float, float]:
    """The same by the exported model; and the model file's size in bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        export(args.checkpoint, args.data, folder, quantization)
        size = (folder / "model.bin").stat().st_size
        translator = load_translator(folder, threads=1, inter_threads=args.threads)
    begin = time.perf_counter()
    found = translator.translate_nbest(sources, beam=args.beam, length_penalty=args.length_penalty)
    seconds = time.perf_counter() - begin
    return [Translation(best.text, best.score) for best, *_ in found], seconds, size


def main() -> int:
    """Compare, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, metavar="DATA_BIN", help="made by preprocess.sh")
    parser.add_argument("--source", type=Path, help="raw test text (default: raw/ beside DATA_BIN)")
    parser.add_argument("--reference", type=Path, help="its translation (default: raw/ beside it)")
    parser.add_argument("--beam", type=positive, default=4)
    parser.add_argument("--length-penalty", type=float, default=1.0)
    parser.add_argument("--threads", type=positive, default=2)
    args = parser.parse_args()
    settings = read_settings(args.data)
    if not settings:
        parser.error(f"{args.data} is no data of preprocess.sh (no settings.txt in it)")
    args.languages = [settings["source"], settings["target"]]
    raw = [args.data.parent / "raw" / f"test.{language}" for language in args.languages]
    sources, references = (
        read_lines(given or default)
        for given, default in zip((args.source, args.reference), raw, strict=True)
    )

    expected, seconds = by_fairseq(args)
    if len(expected) != len(sources):
        sys.exit(f"{len(expected)} sentences in {args.data}, {len(sources)} in the source text")
    bleu = BLEU()

    def score(found: list[Translation]) -> float:
        return bleu.corpus_score([t.text for t in found], [references]).score

    base = score(expected)
    rows = [["fairseq-generate", f"{base:.2f}", "", "", "", f"{len(expected) / seconds:.0f}", ""]]
    failures, sizes = [], {}
    for quantization in ("float32", "int8"):
        found, seconds, sizes[quantization] = by_ctranslate2(args, quantization, sources)
        same = [(a, b) for a, b in zip(expected, found, strict=True) if a.text == b.text]
        share = len(same) / len(expected)
        far = max((abs(a.score - b.score) for a, b in same), default=math.nan)
        lost = base - score(found)
        rows.append(
            [
                f"CTranslate2, {quantization}",
                f"{base - lost:.2f}",
                f"{len(same)} of {len(expected)} ({share:.1%})",
                f"{far:.1g}",
                f"{sizes[quantization] / 1e6:.2f}",
                f"{len(found) / seconds:.0f}",
                f"{sizes[quantization] / sizes['float32']:.3f}",
            ]
        )
        if quantization == "float32":
            if share < SAME:
                failures.append(f"float32: {share:.1%} the same, the goal is {SAME:.0%}")
            if not far <= SCORE:
                failures.append(f"float32: scores differ by {far:.2g}, the goal is {SCORE}")
        allowed = FLOAT32_BLEU if quantization == "float32" else INT8_BLEU
        if abs(lost) > allowed:
            failures.append(
                f"{quantization}: BLEU differs by {abs(lost):.2f}, the goal is {allowed}"
            )
    size = sizes["int8"] / sizes["float32"]
    if size > INT8_SIZE:
        failures.append(f"int8: {size:.3f} of float32's size, the goal is {INT8_SIZE}")
    heads = ["", "BLEU", "same text", "score differs by", "MB", "sentences/s", "size"]
    print(
        f"{args.checkpoint}, {len(sources)} sentences, beam {args.beam}; {bleu.get_signature()}\n"
    )
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(row) + " |")
    for failure in failures:
        print(failure, file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
