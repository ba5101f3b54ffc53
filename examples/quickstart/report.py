"""The table, the examples and the next commands at the end of run.sh.

python report.py WORK RUN
"""

import json
import re
import sys
from pathlib import Path

STAGES = ("fetch", "prepare", "train", "translate", "score")
EXAMPLES = 5


def read_lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8").split("\n")[:-1]


def table(run: Path) -> list[tuple[str, str]]:
    bleu = json.loads((run / "bleu.json").read_text())
    speed = re.search(r"\(([\d.]+) sentences/s", (run / "generate.log").read_text(encoding="utf-8"))
    rows = [
        ("BLEU", f"{bleu['score']:.1f}"),
        ("signature", bleu["signature"]),
        ("sentences a second", speed.group(1) if speed else "unknown"),
    ]
    total = 0
    for stage in STAGES:
        seconds = run / f"seconds.{stage}"
        if seconds.exists():  # an earlier run with other UPDATES may have done it
            total += int(seconds.read_text())
            rows.append((f"minutes: {stage}", f"{int(seconds.read_text()) / 60:.1f}"))
    return [*rows, ("minutes: all", f"{total / 60:.1f}")]


def main(work: Path, run: Path) -> None:
    print()
    for name, value in table(run):
        print(f"| {name:<19} | {value} |")

    sources, references = read_lines(work / "raw/test.de"), read_lines(work / "raw/test.en")
    outputs = read_lines(run / "test.en")
    print(f"\n{EXAMPLES} of {len(sources)} verses, evenly spaced:")
    for number in range(0, len(sources), len(sources) // EXAMPLES)[:EXAMPLES]:
        print(f"\n  source     {sources[number]}")
        print(f"  reference  {references[number]}")
        print(f"  output     {outputs[number]}")

    data, model = work / "data-bin", run / "model.pt"
    print(f"""
What next?

Translate raw text, a sentence a line:

  echo 'Und Gott sah, daß es gut war.' | sacremoses -q -l de normalize |
    fairseq-interactive {data} --user-dir fairseq_mem --path {model} \\
      --source-lang de --target-lang en --tokenizer moses \\
      --bpe subword_nmt --bpe-codes {data}/code --beam 4 --cpu

From Python:

  python - <<'END'
  from fairseq_mem import MemTransformerModel
  model = MemTransformerModel.from_pretrained(
      "{run}", "model.pt", data_name_or_path="{data.absolute()}",
      bpe_codes="{data.absolute()}/code", tokenizer="moses", bpe="subword_nmt")
  print(model.translate("Und Gott sah, daß es gut war.", beam=4))
  END

Train four times longer (other checkpoints, the same data):

  UPDATES=8000 examples/quickstart/run.sh""")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
