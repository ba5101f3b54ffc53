"""Plants mistakes, one at a time, and sees whether the tests notice.

    python tests/mutations/run.py [--only PATTERN] [--jobs N] [--write]

works in copies in a temporary folder, never in the working tree. What is found is kept in
``.cache/mutations.json`` with a checksum of the mistake, of the file that it is in and of the tests
that were asked, so that nothing is done twice and an interrupted run goes on. A test that notices
is run without the mistake, too, at the end: it must pass.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mistakes import HERE, ROOT, Mistake, read_mistakes

RESULTS = ROOT / ".cache" / "mutations.json"
README = HERE / "README.md"
RESULT = "<!-- the result, by run.py --write -->\n"
MOST_SECONDS = 1800  # of one mistake's tests: it made them hang
# What the tests import and no mistake is in: imported once, and the tests' process is a fork.
PRELOADED = ("torch", "fairseq", "fairseq_cli.train", "fairseq.tasks.translation", "scipy.stats",
             "pytest", "numpy", "sacremoses", "subword_nmt.apply_bpe", "jsonschema")  # fmt: skip
CAUGHT, SURVIVED, BROKEN, LEFT = "caught", "survived", "not run", "not planted yet"


class Failures:
    """A plugin of pytest's that notes which tests failed."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Hook of pytest's."""
        if report.failed:
            with self.note.open("a", encoding="utf-8") as note:
                note.write(f"{report.nodeid}\n")


class Copy:
    """A copy of the tree, in which one mistake is planted at a time."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.tree = folder, folder / "tree"
        for name in files:
            path = self.tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path)

    def start(self, tests: list[str], mistake: Mistake | None = None) -> int:
        """Begin to run tests, with a mistake planted or none; returns the process's number."""
        self.note, self.log = self.folder / "failed", self.folder / "log"
        self.note.unlink(missing_ok=True)
        self.began = time.monotonic()
        self.whole = None
        if mistake is not None:
            self.whole = self.tree / mistake.file, (self.tree / mistake.file).read_bytes()
            text = self.whole[1].decode("utf-8")
            self.whole[0].write_text(mistake.planted(text), encoding="utf-8", newline="")
        number = os.fork()
        if number == 0:
            os._exit(self._run(tests))
        os.setpgid(number, number)  # with all that the tests start
        return number

    def _run(self, tests: list[str]) -> int:
        """In the fork: pytest in the copy."""
        import pytest

        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(self.tree)
        temporary = self.folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # what is compiled is known by its second and size, which a mistake may leave as they are
        sys.dont_write_bytecode = True
        packages = [str(self.tree), str(self.tree / "serve")]
        os.environ |= {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(packages),
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
        }
        tempfile.tempdir = None
        sys.path[:] = [*packages, *(path for path in sys.path if Path(path) not in (ROOT, HERE))]
        options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(self.tree)]
        options += [] if self.whole is None else ["-x"]
        return int(pytest.main([*options, *tests], plugins=[Failures(self.note)]))

    def end(self, status: int) -> dict[str, Any]:
        """Take the mistake out; what became of it."""
        if self.whole is not None:
            self.whole[0].write_bytes(self.whole[1])
        failed = self.note.read_text(encoding="utf-8").splitlines() if self.note.exists() else []
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            result = SURVIVED
        elif failed or code < 0:  # below 0: a signal ended it, such as ours after MOST_SECONDS
            result = CAUGHT
        else:  # no test has that name, or a file cannot be imported
            result = BROKEN
        return {
            "result": result,
            "test": failed[0] if failed else "",
            "failed": failed,
            "seconds": round(time.monotonic() - self.began),
            "log": "" if result == CAUGHT else self.log.read_text("utf-8", "replace")[-2000:],
        }


def files_of_the_tree() -> list[str]:
    """What git tracks or would offer to add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in names.split("\0") if name and (ROOT / name).is_file())


def key_of(mistake: Mistake, files: list[str]) -> str:
    """A checksum of the mistake, and of the files that decide whether it is noticed.

    These are the file that it is in, the tests that are asked, their fixtures, and what of
    ``tests/helpers/`` they name; the rest of the packages may change whether it is noticed, but
    seldom does.
    """
    asked = tuple(part.split("::")[0] for part in shlex.split(mistake.tests) if "/" in part)
    waiting = [name for name in files if name == mistake.file or (asked and name.startswith(asked))]
    waiting += [
        str(fixtures)
        for name in asked
        if str(fixtures := Path(name).with_name("conftest.py")) in files
    ]
    decisive: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in decisive:
            decisive.add(name)
            waiting += helpers_named(name) if name.startswith("tests/") else []
    digest = hashlib.sha256(repr(mistake).encode())
    for name in sorted(decisive):
        digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()[:20]


@cache
def helpers_named(name: str) -> list[str]:
    """The files of ``tests/helpers/`` that a test's file imports."""
    text = (ROOT / name).read_text("utf-8", "replace")
    parts = re.findall(r"from helpers\.([\w.]+) import", text)
    for several in re.findall(r"from helpers import \(?([\w, \n]+)", text):
        parts += several.replace(",", " ").split()
    paths = [Path("tests/helpers", *part.split(".")).with_suffix(".py") for part in parts]
    return [str(path) for path in paths if (ROOT / path).is_file()]


def save(results: dict[str, Any]) -> None:
    """All at once, or not at all."""
    RESULTS.parent.mkdir(exist_ok=True)
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=1), encoding="utf-8")
    fresh.replace(RESULTS)


def run(todo: list[tuple[str, Mistake]], copies: list[Copy], results: dict[str, Any]) -> None:
    """Plant all of ``todo``, one in each copy at a time."""
    # by their checksums, so that what an interrupted run has done is of all parts
    waiting, free, running = sorted(todo), list(copies), {}
    try:
        while waiting or running:
            while waiting and free:
                key, mistake = waiting.pop()
                copy = free.pop()
                running[copy.start(shlex.split(mistake.tests), mistake)] = key, mistake, copy
            number, status = os.waitpid(-1, os.WNOHANG)
            if number == 0:
                for process, (_, _, copy) in running.items():
                    if time.monotonic() - copy.began > MOST_SECONDS:
                        os.killpg(process, signal.SIGKILL)
                time.sleep(0.2)
                continue
            key, mistake, copy = running.pop(number)
            results[key] = copy.end(status)
            save(results)
            free.append(copy)
            left = len(waiting) + len(running)
            told = results[key]
            print(
                f"{told['result']:9} {told['seconds']:4} s  {left:3} left  {mistake.file}: "
                f"{mistake.what}",
                flush=True,
            )
    finally:
        for process in running:
            os.killpg(process, signal.SIGKILL)


def control(
    found: list[dict[str, Any]], copy: Copy, results: dict[str, Any], files: list[str]
) -> list[str]:
    """Those tests that noticed something, and that fail without any mistake as well."""
    tests = {one["test"] for one in found if one["result"] == CAUGHT and one["test"]}
    keys = {test: key_of(Mistake("none", "", "", "", test), files) for test in sorted(tests)}
    todo = [test for test, key in keys.items() if key not in results]
    if todo:
        print(f"without a mistake: {len(todo)} tests that noticed one", flush=True)
        _, status = os.waitpid(copy.start(todo), 0)
        ended = copy.end(status)
        if ended["result"] == BROKEN:
            raise RuntimeError(ended["log"])
        results |= {keys[test]: {"result": test not in ended["failed"]} for test in todo}
        save(results)
    return [test for test, key in keys.items() if not results[key]["result"]]


def report(mistakes: list[Mistake], found: list[dict[str, Any]], head: str) -> str:
    """Markdown: how many of each package were noticed, and which were not."""
    by_folder: dict[str, Counter[str]] = {}
    for mistake, one in zip(mistakes, found, strict=True):
        by_folder.setdefault(str(Path(mistake.file).parent), Counter())[one["result"]] += 1
    lines = [head, "", "| part | planted | caught | survived |", "|---|---|---|---|"]
    for folder, counts in sorted(by_folder.items()):
        numbers = f"{counts.total() - counts[LEFT]} | {counts[CAUGHT]} | {counts[SURVIVED]}"
        lines.append(f"| `{folder}` | {numbers} |")
    total = Counter(one["result"] for one in found)
    planted = total.total() - total[LEFT]
    lines += [f"| all | {planted} | {total[CAUGHT]} | {total[SURVIVED]} |", ""]
    lines += [
        f"- {one['result']}: `{mistake.file}`: {mistake.what}"
        for mistake, one in zip(mistakes, found, strict=True)
        if one["result"] not in (CAUGHT, LEFT)
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command; 1 if a mistake was not noticed, or the list is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="a pattern, of FILE: DESCRIPTION")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time (default 1)")
    parser.add_argument("--no-control", action="store_true", help="leave the last step out")
    parser.add_argument("--write", action="store_true", help="put the result into README.md")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also in the background
        signal.signal(number, signal.default_int_handler)
    mistakes = [m for m in read_mistakes() if re.search(args.only, f"{m.file}: {m.what}")]
    wrong = [m.problem((ROOT / m.file).read_text(encoding="utf-8")) for m in mistakes]
    if any(wrong) or not mistakes:
        print(*filter(None, wrong or ["no such mistake"]), sep="\n", file=sys.stderr)
        return 1
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    files = files_of_the_tree()
    keys = [key_of(mistake, files) for mistake in mistakes]
    todo = [(key, m) for key, m in zip(keys, mistakes, strict=True) if key not in results]
    print(f"{len(mistakes)} mistakes, {len(todo)} to plant", flush=True)
    sys.path[:] = [path for path in sys.path if Path(path) not in (ROOT, ROOT / "serve")]
    for name in PRELOADED:
        import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copies = [Copy(Path(folder) / f"{number}", files) for number in range(max(1, args.jobs))]
        bad: list[str] = []
        try:
            run(todo, copies, results)
            found = [results[key] for key in keys]
            bad = [] if args.no_control else control(found, copies[0], results, files)
        except KeyboardInterrupt:
            print("interrupted; run it again to go on", flush=True)
            found = [results.get(key, {"result": LEFT}) for key in keys]
    for test in bad:
        print(f"fails without a mistake too: {test}", file=sys.stderr)
    counts = Counter(one["result"] for one in found)
    planted = len(found) - counts[LEFT]
    share = f" ({counts[CAUGHT] / planted:.1%})" if planted else ""
    head = f"{date.today()}: {counts[CAUGHT]} of {planted} mistakes were caught{share}."
    head += f" {counts[LEFT]} of the list were not planted." if counts[LEFT] else ""
    told = report(mistakes, found, head)
    print(told)
    if args.write:
        before = README.read_text("utf-8").split(RESULT)[0]
        README.write_text(f"{before}{RESULT}\n{told}", encoding="utf-8")
    return int(bool(bad) or counts[CAUGHT] < len(found))


if __name__ == "__main__":
    sys.exit(main())
