"""One try of a command in a folder of its own, and what must hold of it whatever went wrong."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq_cli.train import cli_main

from fairseq_mem.tools import cli
from helpers.forked_commands import Ended, Forked
from helpers.tool_inputs import TOOLS

OLD = b"of yesterday\n"
MINE = "mine.txt"
ODD = [
    "two words", "Müller und größe", "u\u0308mlaut", "日本 語", "-dash", "--out", "a'b\"c", "$HOME",
    "`id`", "a*b?[c]", "tab\there", "%s{x}{0}", "a,b", "a:b", "#x", "~", "back\\slash", "end ",
    ".hidden", "x" * 200, "a;b&c|d", "@file", "a=b", "été\u2028x", os.fsdecode(b"M\xfcller"),
]  # fmt: skip
SPEAKERS = ("fairseq_mem: ", "fairseq-mem ")  # with which a line of ours begins


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; an archive of torch's without the name that its folder has."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def is_whole(data: bytes, wanted: bytes) -> bool:
    """Whether a file is as it should be; times, and a checkpoint's inner name, may differ."""
    if data == wanted:
        return True
    if wanted[:1] == b"{":
        return data.endswith(b"}\n") and without_times(data) == without_times(wanted)
    if wanted[:2] != b"PK":
        return False
    if data[:2] != b"PK":
        return False
    try:
        if zipfile.ZipFile(io.BytesIO(data)).testzip():
            return False
        models = [torch.load(io.BytesIO(one), weights_only=True)["model"] for one in (data, wanted)]
    except Exception:
        return False
    return models[0].keys() == models[1].keys() and all(
        torch.equal(models[0][name], models[1][name]) for name in models[0]
    )


def without_times(data: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(data).items() if "seconds" not in name}


class Try:
    """A command, a copy of its inputs (``in``) and a place for its output, below ``folder``.

    Args:
        name: of the command.
        inputs: what is copied.
        folder: the current folder of the command, in which it names its files.
        out: the name of its output.
    """

    def __init__(self, name: str, inputs: Path, folder: Path, out: str = "out") -> None:
        self.name, self.tool = name, TOOLS[name]
        self.folder, self.out = folder, Path(out)
        shutil.copytree(inputs, folder / "in")
        self.given = contents(folder / "in")
        self.old: dict[str, bytes] = {}
        self.out_path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def out_path(self) -> Path:
        return self.folder / self.out

    @property
    def words(self) -> list[object]:
        program = "fairseq-train" if self.tool.train else "fairseq-mem"
        return [program, *self.tool.words(Path("in"), self.out)]

    @property
    def program(self) -> Callable[[], object]:
        return cli_main if self.tool.train else cli.main

    def put_old(self, wanted: dict[str, bytes]) -> None:
        """Leave an earlier output there, which differs."""
        if self.tool.train:
            return  # that would be gone on with
        for name in wanted:
            if "results" not in name and self.tool.result:
                path = self.out_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(OLD)
        if self.tool.folder:
            (self.out_path / MINE).write_bytes(OLD)
        self.old = contents(self.out_path) if self.out_path.exists() else {}

    def start(
        self, prepare: Callable[[], object] = lambda: None, lines: int | None = None
    ) -> Forked:
        def begin() -> None:
            os.chdir(self.folder)
            prepare()

        return Forked(self.program, self.words, begin, lines)

    def run(self, prepare: Callable[[], object] = lambda: None, lines: int | None = None) -> Ended:
        return self.start(prepare, lines).wait()

    # ------------------------------------------------------------ what must hold

    def check_kept(self) -> None:
        """What was given is as it was, and nothing half-made lies about."""
        assert contents(self.folder / "in") == self.given
        if not self.tool.train:  # fairseq writes into a name that it finds again
            half = [path for path in self.folder.rglob("*") if is_half_made(path)]
            assert not half

    def check_result(self, wanted: dict[str, bytes], whole: bool = True) -> None:
        """All of the output is there, or (``whole=False``) each file is new, old, or not there."""
        found = contents(self.out_path) if self.out_path.exists() else {}
        if whole and self.tool.result:
            assert found.keys() >= wanted.keys(), sorted(wanted.keys() - found.keys())
        for name, data in found.items():
            new = name in wanted and is_whole(data, wanted[name])
            old = data == self.old.get(name) and (not whole or name == MINE)
            # fairseq's copy of the last checkpoint may be cut short (docs/troubleshooting.md)
            cut = self.tool.train and not whole and name.endswith((".tmp", "_last.pt"))
            assert new or old or cut, f"{name} is neither the old file nor the new one"
        if not whole and not self.tool.folder:
            assert found == self.old or found.keys() == wanted.keys()
        if not whole and MINE in self.old:
            assert MINE in found

    def check(self, ended: Ended, wanted: dict[str, bytes], says: str = "") -> None:
        """It worked, or said in a line why not."""
        told = f"{self.words}: {ended.status}\n{ended.output[-1000:]!r}\n{ended.errors[-3000:]}"
        try:
            self.check_kept()
            self.check_result(wanted, whole=ended.status == 0)
            if ended.status != 0:
                check_told(ended, self.tool.train, says)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{told}") from None


def is_half_made(path: Path) -> bool:
    return path.name.endswith((".partial", ".replaced", ".tmp")) or path.name.startswith("tmp")


def check_told(ended: Ended, of_fairseq: bool = False, says: str = "") -> None:
    """A command that failed says why in one line, its last one."""
    assert ended.status > 0, "ended by a signal"
    assert says in ended.last_line
    if of_fairseq:  # a traceback above it is fairseq's
        assert ended.last_line
        return
    assert "Traceback" not in ended.errors and "Exception ignored" not in ended.errors
    assert ended.last_line.startswith(SPEAKERS)
