"""How often `--print-alignment` is wrong about words that it must know: copied names and numbers.

A number or a name that stands once in the source and once, the same, in the target is its own
translation: these pairs are a reference alignment that needs no annotation. Other words may look
the same and mean something else (German "war", "die", "an"); a name is known by its capital, where
it doesn't begin a sentence. Every model is asked for the hard alignment of the reference
translation; the error is the share of the pairs' target pieces that are aligned to a piece of
another word.

usage: alignment.py DATA_BIN RUN ...     with model.pt in every RUN
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mem.runs.tables import markdown

USER_DIR = Path(__file__).resolve().parents[2] / "fairseq_mem"


def words_of(pieces: list[str]) -> list[tuple[str, list[int]]]:
    """The words of a line of BPE pieces, each with the places of its pieces."""
    words: list[tuple[str, list[int]]] = []
    begun = False
    for place, piece in enumerate(pieces):
        text = piece.removesuffix("@@")
        if begun:
            words[-1] = (words[-1][0] + text, [*words[-1][1], place])
        else:
            words.append((text, [place]))
        begun = piece.endswith("@@")
    return words


def names(words: list[str]) -> set[str]:
    """Those that have a digit, or a capital within a sentence."""
    found = {word for word in words if any(map(str.isdigit, word))}
    for before, word in pairwise(words):
        # not behind a full stop or a quotation mark
        within = before == "," or any(map(str.isalnum, before))
        if within and word[0].isupper() and len(word) > 1:
            found.add(word)
    return found


def pairs(source: list[str], target: list[str]) -> list[tuple[set[int], list[int]]]:
    """Copied names and numbers: the places of their pieces in the source, and in the target."""
    sides = [words_of(side) for side in (source, target)]
    once = [
        {word for word, count in Counter(word for word, _ in side).items() if count == 1}
        for side in sides
    ]
    copied = once[0] & once[1]
    for side in sides:
        copied &= names([word for word, _ in side])
    places = dict(sides[0])
    return [(set(places[word]), where) for word, where in sides[1] if word in copied]


def errors(output: str) -> tuple[int, int]:
    """Of what fairseq-generate printed: pieces that are aligned wrongly, and all that count."""
    lines: dict[str, dict[str, list[str]]] = {}
    for line in output.splitlines():
        if (found := re.match(r"([STA])-(\d+)\t(.*)", line)) is not None:
            lines.setdefault(found[2], {})[found[1]] = found[3].split()
    wrong = total = 0
    for kinds in lines.values():
        if not {"S", "T", "A"} <= set(kinds):
            continue
        aligned: dict[int, set[int]] = {}
        for link in kinds["A"]:
            source, target = map(int, link.split("-"))
            aligned.setdefault(target, set()).add(source)
        for where, pieces in pairs(kinds["S"], kinds["T"]):
            for piece in pieces:
                total += 1
                wrong += not aligned.get(piece, set()) & where
    return wrong, total


def command(data: Path, run: Path) -> list[str]:
    """What asks a model for its alignment of the test set's reference."""
    program = Path(sys.executable).parent / "fairseq-generate"
    return [
        str(program) if program.exists() else "fairseq-generate", str(data), "--user-dir",
        str(USER_DIR), "--path", str(run / "model.pt"), "--gen-subset", "test",
        "--score-reference", "--print-alignment", "hard", "--max-tokens", "3000",
        "--required-batch-size-multiple", "1", "--cpu",
    ]  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="The error of alignments of copied words.")
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    count = 0
    for run in args.runs:
        done = subprocess.run(command(args.data, run), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"alignment: {run}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        wrong, count = errors(done.stdout)
        if count == 0:
            sys.exit(f"alignment: {args.data} has no word that is the same on both sides")
        model = run.parent.name if run.name.startswith("seed-") else run.name
        found.setdefault(model, []).append(100 * wrong / count)
        print(f"{run}: {wrong} of {count} pieces of copied words aligned wrongly", file=sys.stderr)
    rows = [
        [model, len(values), f"{fmean(values):.1f}" + (
            f" ± {stdev(values):.1f}" if len(values) > 1 else "")]
        for model, values in found.items()
    ]  # fmt: skip
    print("\n".join(markdown(["model", "seeds", f"error, % of {count} pieces"], rows)))


if __name__ == "__main__":
    main()
