"""Much text, and lines that are very long: in constant memory, and in a time that is bounded.

The server has such a trial of its own, `benchmarks/soak.py`.
"""

import os
import random
import re
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fairseq_mem_serve import load_translator
from fairseq_mem_text.stages import run_stage
from helpers import trained_models
from helpers.forked_commands import Forked, run

from fairseq_mem.tools import cli
from fairseq_mem.tools.export import export

TINY = """
    --memory-tokens 2 --encoder-layers 1 --decoder-layers 1 --encoder-attention-heads 1
    --decoder-attention-heads 1 --encoder-embed-dim 8 --decoder-embed-dim 8
    --encoder-ffn-embed-dim 8 --decoder-ffn-embed-dim 8
""".split()
SEARCH = ["--beam", 1, "--max-len-a", 0, "--max-len-b", 4, "--threads", 1]
WORD = "x{:07d}"  # always as many unknown tokens
GROWTH = 8  # MiB, of which the second half of a text may need more than the first
SECONDS = 200  # of a processor: so long takes nothing that is not quadratic


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A checkpoint of one layer of 8 with its dictionaries, and the same exported."""
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint = trained_models.train(folder, TINY)
    codes = folder / "code"
    codes.write_text("#version: 0.2\na b\n. .\nab ab</w>\n", encoding="utf-8")
    (folder / "settings.txt").write_text("source de\ntarget en\nnormalize yes\n")
    export(checkpoint, folder, folder / "exported")
    return {"exported": folder / "exported", "checkpoint": checkpoint}


# ---------------------------------------------------------------- many lines


def memory(pid: int) -> float:
    """The most that a process has had so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def check_many(lines: int, model: Path, seed: int) -> None:
    """Translate so many: each has its translation, and the second half needs no more memory."""
    draw = random.Random(seed)
    pool = [
        " ".join(draw.choices(["s1", "s2", "s3", "."], k=draw.randint(0, 5))) for _ in range(50)
    ]
    # words that are no others': the first half may fill what remembers words
    texts = [f"{text} {{}}" if number % 3 == 0 else text for number, text in enumerate(pool)]
    translator = load_translator(model.parent / "exported", threads=1)
    wanted = translator.translate(
        [text.format(WORD.format(0)) for text in texts], beam=1, max_len_a=0, max_len_b=4
    )
    ours, theirs = os.pipe(), os.pipe()
    words = ["fairseq-mem", "translate", model, *SEARCH, "--output", f"/proc/self/fd/{theirs[1]}"]

    def begin() -> None:
        os.dup2(ours[0], 0)
        for end in (*ours, theirs[0]):
            os.close(end)

    process = Forked(cli.main, words, begin)
    os.close(ours[0])
    os.close(theirs[1])

    def write() -> None:
        with open(ours[1], "wb") as file:
            for number in range(lines):
                text = texts[number % len(texts)].format(WORD.format(number % (lines // 4)))
                file.write(text.encode() + b"\n")

    writer = threading.Thread(target=write)
    writer.start()
    wrong, number, half = [], -1, 0.0
    with open(theirs[0], "rb") as file:
        for number, line in enumerate(file):
            if line.decode() != wanted[number % len(wanted)] + "\n":
                wrong.append((number, line))
            if number == lines // 2:
                half = memory(process.pid)
            if number == lines - 1:
                grown = memory(process.pid) - half
    writer.join()
    ended = process.wait()
    assert ended.status == 0, ended.errors
    assert number + 1 == lines and not wrong, wrong[:5]
    print(f"{lines:,} lines, {half:.1f} MiB, and {grown:.1f} more in the second half")
    assert grown < GROWTH


@pytest.mark.tries(sample=1, soak=1)
def test_a_million_lines(seed, request, models):
    check_many(
        1_000_000 if request.config.getoption("--soak") else 10_000, models["exported"], seed
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exported", "checkpoint"])
def test_a_hundred_thousand_lines(models, kind):
    check_many(100_000, models[kind], seed=1)


# ---------------------------------------------------------------- long lines

LENGTH = 1_000_000
UNITS = [
    *"a.,'-\"/ <&|%$@0", "..", ". ", "a.", "'s", "a ", "\u0308", "a\u0308", "\u1160", "\u3099",
    "\u00a0", "\u200b", "\u200d", "\u2028", "\u0085", "\ufeff", "\u00ad", "\x00", "\x01", "\x1c",
    "\x7f", "\ud7ff", "\ue000", "\uffff", "\U0010ffff", "\U0001f600", "\U0001f1e9", "\ufe0f",
    "\u0661", "\u4e00", "\uac00", "\u1100\u1161", "\u202e", "@@ ", "@-@", "&amp;", "DOTMULTI",
    "</s>", "ab",
]  # fmt: skip


def unit(draw: random.Random) -> str:
    """A character of any kind, or a few: what gets repeated."""
    if draw.random() < 0.6:
        return draw.choice(UNITS)
    characters = [chr(code) for code in draw.sample(range(0x110000), 3)]
    return "".join(c for c in characters if not "\ud800" <= c <= "\udfff" and c != "\n") or "a"


def bounded(what: Callable[[], object]) -> None:
    """Do it in a fork, which the system ends if it takes too much of a processor's time."""
    ended = run(
        what, ["fairseq-mem"], lambda: resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    )
    assert ended.status == 0, ended.errors


@pytest.mark.tries(sample=0, soak=30)
def test_a_line_of_a_million_characters(seed, models, tmp_path):
    """Through the stages of preprocess.sh and either translator: told or done, in bounded time."""
    draw = random.Random(seed)
    repeated = unit(draw)
    line = (repeated * (LENGTH // len(repeated))).rstrip("\r")
    lines = [
        "s1 s2 ab ab",
        draw.choice(["", "a "]) + line + draw.choice(["", '"', " a", "."]),
        "s3 ab",
    ]
    text = "".join(f"{one}\n" for one in lines)
    for side in ("de", "en"):
        (tmp_path / f"raw.{side}").write_bytes(text.encode())
    raw, tok = [tmp_path / f"raw.{side}" for side in ("de", "en")], tmp_path / "tok"

    def stages() -> None:
        options = draw.sample(["--no-normalize", "--nfc", "--clean"], draw.randrange(3))
        if "--no-normalize" not in options and draw.random() < 0.5:
            options.append("--remove-nonprinting")
        run_stage(["tokenize", "--source-lang", "de", "--target-lang", "en", *options, *raw, tok])
        run_stage(["learn-bpe", "--merges", 20, "--output", tmp_path / "code", f"{tok}.de"])
        run_stage(["apply-bpe", "--codes", tmp_path / "code", f"{tok}.de", tmp_path / "bpe"])

    bounded(stages)
    assert (tmp_path / "bpe").read_bytes().count(b"\n") in (2, 3)  # --clean drops it
    for model in models.values():
        out = tmp_path / "out"
        words = ["translate", model, "--input", raw[0], "--output", out, *SEARCH]
        bounded(lambda words=words: sys.exit(cli.main(list(map(str, words))) not in (0, 3)))
        translated = out.read_text(encoding="utf-8").split("\n")
        assert len(translated) == 4 and translated[0] and translated[2]
