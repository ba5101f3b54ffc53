"""preprocess.sh as users run it, with German and English lines that are hard to treat."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import ROOT, python

SCRIPT = ROOT / "preprocess.sh"
STAGES = [sys.executable, "-m", "fairseq_mem_text"]

# What real text brings: quotes, dashes, abbreviations, numbers, markup, odd spaces.
GERMAN = [
    "„Er kam“, sagte sie, „z. B. um 8.30 Uhr“ - und ging.",
    "Dr. Meier zahlte 1.000,50 € (ca. 20 %) an die Müller-Lüdenscheidt GmbH & Co. KG.",
    "Das ist's, was ich »immer« gesagt habe … nicht wahr?",
    "Siehe Nr. 3, Abs. 2 und §\u00a05\u00a0: die E-Mail-Adresse lautet a.b@example.org!",
    "Preise: 5 000 Euro, 10\u00a0000 Mark; <b>fett</b> | senkrecht [Klammer] {geschweift}",
    "Ein   Satz\tmit  Lücken ; und Zeichen : so ! oder ?",
    "Am 3. Oktober 1990 (Mittwoch) – um 0.00 Uhr — war's so weit...",
    "Und Jehova redete zu Mose und sprach: Rede zu den Kindern Israel und sage ihnen.",
    "‚Halb‘ zitiert, ´so` und ''doppelt'' und \"gerade\", \"Punkt.\" Ende",
    'Sie sagte: "Er kam."',
    "Größe: 3 x 4 cm, 37 ºC, 5 nº 7 und 日本語 dazu \U0001f600.",
]
ENGLISH = [
    '"He came," she said, "at about 8:30 a.m." - and left.',
    "Dr. Smith paid $1,000.50 (approx. 20 %) to Miller & Sons Inc. in the U.S.",
    "That’s what I`ve “always” said… isn't it?",
    "See No. 3, para. 2 and §\u00a05\u00a0: the e-mail address is a.b@example.org!",
    "Prices: 5 000 euros, 10\u00a0000 marks; <b>bold</b> | bar [bracket] {brace}",
    "A   sentence\twith  gaps ; and marks : so ! or ?",
    "On 3 October 1990 (Wednesday) – at midnight — it was time...",
    "Yahweh spoke to Moses, saying, 'Speak to the children of Israel, and tell them.'",
    "‘Half’ quoted, ´so` and ''double'' and \"straight\", \"stop.\" End",
    'She said: "He came."',
    "Size: 3 x 4 cm, 37 ºC, 5 nº 7 and 日本語 with it \U0001f600.",
]


def sentences(base: list[str], count: int) -> str:
    """Lines that all differ and keep what is hard about `base`."""
    lines = []
    for i in range(count):
        first, second = base[i % len(base)], base[i // len(base) % len(base)]
        lines.append(f"{first} {i} {second}" if i % 3 else first + str(i))
    return "\n".join(lines) + "\n"


def write_pair(folder: Path, name: str, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    prefix = folder / name
    Path(f"{prefix}.de").write_text(sentences(GERMAN, count), encoding="utf-8")
    Path(f"{prefix}.en").write_text(sentences(ENGLISH, count), encoding="utf-8")
    return prefix


def command(raw: Path, out: Path, *options: object) -> list[str]:
    words = [SCRIPT, "-s", "de", "-t", "en", "--out", out, "--bpe", 100, "--workers", 2]
    for split in ("train", "valid", "test"):
        words += [f"--{split}", raw / split]
    return [str(word) for word in (*words, *options)]


def preprocess(raw: Path, out: Path, *options: object, **kwargs) -> subprocess.CompletedProcess:
    # a limit on the script is none of a fork's
    environment = {**os.environ, "PYTHON": sys.executable if kwargs else python()}
    return subprocess.run(
        command(raw, out, *options), env=environment, capture_output=True, text=True, **kwargs
    )


def run_corpus(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([*STAGES, *map(str, words)], capture_output=True, text=True)


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.strip().splitlines()[-1]


def refused(done: subprocess.CompletedProcess, *says: str) -> None:
    """Failed, with one last line that holds cause and remedy, and no traceback."""
    assert done.returncode != 0
    for text in says:
        assert text in last_line(done), done.stderr
    assert "Traceback" not in done.stderr


def library(*words: object, text: bytes) -> bytes:
    """What a library's own command line makes of `text`."""
    path = Path(sys.executable).parent / str(words[0])
    return subprocess.run(
        [str(path), *map(str, words[1:])], input=text, capture_output=True, check=True
    ).stdout


def mounted(folder: Path, options: str) -> None:
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs the right to mount")


def small_files() -> None:
    """For a process that is about to start: it writes no more than 4 KiB into a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[number - 1] = line
    path.write_text("\n".join(lines), encoding="utf-8")
