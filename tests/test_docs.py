"""The documentation says what is there: links, options, commands, and blocks that run.

A block of code that can run here has a comment in front of it that says what it needs:

    <!-- runs with: trained files -->   a checkpoint, its data and an export, where pages have them
    <!-- runs with: a model -->         `model` and a batch: src_tokens, src_lengths, ...
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq import options as fairseq_options
from helpers.commands import ROOT, programs
from helpers.random_models import build, sentences, shifted

from fairseq_mem.tools import cli

PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part in ("work", "runs", "results")
        for part in path.relative_to(ROOT).parts
    )
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^<!-- runs with: ([a-z ]+) -->\n" + BLOCK.pattern[1:], BLOCK.flags)
RUNNING = [
    pytest.param(
        *block, id=f"{page.relative_to(ROOT)}-{number}",
        marks=[] if block[1] == "python" else pytest.mark.cli,
    )
    for page in PAGES
    for number, block in enumerate(MARKED.findall(page.read_text(encoding="utf-8")), 1)
]  # fmt: skip
FAIRSEQ = {
    "fairseq-train": fairseq_options.get_training_parser,
    "fairseq-generate": fairseq_options.get_generation_parser,
    "fairseq-eval-lm": fairseq_options.get_eval_lm_parser,
    "fairseq-preprocess": fairseq_options.get_preprocessing_parser,
}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The places of a page that a link can name, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_somewhere(page):
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{named(page)}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's blocks."""
    found = []
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language not in ("", "sh", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"(\w+=\S+ )*(fairseq-|echo )", line):
                continue
            for command in re.split(r"[|;<>]", line.split(" # ")[0]):
                command = command.replace("$(fairseq-mem user-dir)", str(ROOT / "fairseq_mem"))
                words = shlex.split(command, comments=True)
                if words and words[0].startswith("fairseq-"):
                    found.append(words)
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_option_in_a_command_is_one(page):
    for program, *words in commands(page):
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        if program == "fairseq-mem":
            known = options_of_ours(words[0]) if not words[0].startswith("-") else {"--version"}
        elif program in FAIRSEQ:
            known = options_of_fairseq(program, tuple(words))
        else:
            continue
        assert given <= known, f"{named(page)}: {program} has no {sorted(given - known)}"


def options_of_ours(command: str) -> set[str]:
    if command == "COMMAND":
        return {"--help"}
    parser = cli.build_parser(command)
    (sub,) = (a for a in parser._actions if a.dest == "==SUPPRESS==" and a.choices)
    assert command in sub.choices, f"there is no command {command}"
    return {name for a in sub.choices[command]._actions for name in a.option_strings}


def options_of_fairseq(program: str, words: tuple[str, ...]) -> set[str]:
    """fairseq adds the options of what is chosen: architecture, task, criterion, optimizer."""
    parser = FAIRSEQ[program]()
    chosen = ["1" if re.fullmatch("[A-Z]+", word) else word for word in words if word != "..."]
    known: set[str] = set()

    class Found(Exception):
        pass

    def remember(self, *args, **kwargs):
        known.update(name for action in self._actions for name in action.option_strings)
        raise Found

    if program in ("fairseq-train", "fairseq-eval-lm", "fairseq-generate"):
        parser_class = type(parser)
        original = parser_class.parse_args
        parser_class.parse_args = remember
        try:
            if "--path" not in chosen:
                chosen += ["--path", "x"]
            fairseq_options.parse_args_and_arch(parser, [*chosen])
        except Found:
            pass
        finally:
            parser_class.parse_args = original
    known.update(name for action in parser._actions for name in action.option_strings)
    return known


def test_the_reference_has_every_option_and_command():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_reference.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_dependencies_are_those_of_the_tested_set():
    """What their metadata says is looked up by scripts/dependencies.py, in that environment."""
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([\w.-]+) \| ([\w.+]+) \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    rows = [row for row in listed if row[0] != "distribution"]
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert sorted(row[:2] for row in rows) == sorted(pins), "run scripts/dependencies.py"
    unclear = {"", "not said", "not installed here"}
    assert not [row for row in rows if row[2] in unclear or not row[3].strip()]


def test_the_readme_reads_in_five_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_blocks_are_marked_as_this_file_reads_them():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    marks = [mark for text in texts for mark in re.findall("^<!-- runs with", text, re.MULTILINE)]
    assert len(marks) == len(RUNNING) > 5


@pytest.fixture
def trained_files(translator_files, tmp_path):
    """A small translator's files under the names that the pages give them."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "run-2000").mkdir()
    for name in ("checkpoints/checkpoint_best.pt", "run-2000/model.pt"):
        shutil.copyfile(translator_files.checkpoint, tmp_path / name)
    shutil.copytree(translator_files.data, tmp_path / "data-bin")
    shutil.copytree(translator_files.exported, tmp_path / "exported")
    (tmp_path / "news.de").write_text("eins zwei.\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("needs", "language", "code"), RUNNING)
def test_blocks_that_can_run_do(needs, language, code, trained_files, monkeypatch):
    monkeypatch.chdir(trained_files)
    if language == "python":
        names: dict[str, object] = {}
        if needs == "a model":
            source = sentences([6, 3], left_pad=True)
            names = {
                "model": build(memory_tokens=3), "src_tokens": source,
                "src_lengths": source.ne(1).sum(1),
                "prev_output_tokens": shifted(sentences([4, 5])),
            }  # fmt: skip
        exec(compile(code, "<block>", "exec"), names)
        return
    if "--out exported" in code:
        shutil.rmtree("exported")  # the command makes it
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True,
        env={
            **os.environ, "OMP_NUM_THREADS": "1",
            "PATH": programs(),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
