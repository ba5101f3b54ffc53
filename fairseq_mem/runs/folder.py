"""What the folder of a run holds, read and written here alone.

Before the training:

- ``settings.json``: what was asked for. ``"format": 1``; ``model``, ``size`` and ``data`` (names),
  ``seed`` and ``updates`` (whole numbers), and whatever else was set, for instance ``label`` (the
  model's name in tables), ``data_sha256`` and ``dictionary_sha256`` (runs of one data name must
  agree in them) or ``start`` (the checkpoint that the training began with). A run goes on only with
  the same settings; the second sum is new, and may be missing in a run of an earlier version.
- ``lock``: an empty file; who works on the run holds an exclusive ``flock`` on it.

Of each stage of the work:

- ``began.STAGE``: when it began (seconds since 1970), as long as it runs or if it was killed.
- ``seconds.STAGE``: how long it took, over all interruptions.
- ``train.log``, ``losses.txt``, ``generate.txt`` and the like: what the commands said. What ends
  in ``.partial`` is not finished.
- ``failed.txt``: a line that says why the last attempt failed; gone when another one begins.

In the end:

- ``result.json``: the settings again, and
  ``metrics`` (for each name a ``value`` and which is ``better``, ``higher`` or ``lower``; names
  that are known, with their units, are in ``metrics.py``), ``signatures`` (of sacreBLEU, by
  metric), ``parameters``, ``trained_parameters``, ``target_tokens_per_second`` (in training),
  ``wall_seconds`` (of all stages), ``versions`` (by package), ``hardware``, ``threads`` and
  ``commands`` (one line each). Only ``metrics`` must be there.
- of a translation, ``hypotheses.txt`` and ``reference.txt``: a detokenised sentence a line. The
  reference may also lie one folder up, or where ``reference`` in ``result.json`` says.
- of a classification or regression, ``predictions.tsv``: a line ``target<TAB>prediction``, and then
  such a line for each example of the test set: class names (for F1 1 is the positive class), or
  numbers.
- ``commands.txt``: the commands, one a line.

All text is UTF-8. A file that is damaged, nested deeply, larger than 16 MiB or no regular file is
named with its reason, and never read further.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_mem_text import files

from ..errors import UserError
from ..files import write_text

FORMAT = 1
TEXTS, NUMBERS = ("model", "size", "data"), ("seed", "updates")
RESULTS = {  # what result.json holds besides the settings
    "metrics", "signatures", "parameters", "trained_parameters", "target_tokens_per_second",
    "wall_seconds", "versions", "hardware", "threads", "commands", "reference",
}  # fmt: skip
DIGESTS = ("data_sha256", "dictionary_sha256")  # what tells data of one name apart
ADDED = {"dictionary_sha256"}  # runs that began with an earlier version lack it
LARGEST_INTEGER = 2**63


@dataclass
class Run:
    """One run, as it was read from its folder."""

    folder: Path
    name: str  # its path below the folder that was given, the same from anywhere
    settings: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  # why it is not in the tables

    @property
    def group(self) -> tuple[str, str, int]:
        """Data, size and updates; runs that agree in them may be compared."""
        return self.settings["data"], self.settings["size"], self.settings["updates"]

    @property
    def model(self) -> str:
        """The model's short name."""
        return self.settings["model"]

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.settings["seed"]


def read_run(folder: Path, name: str) -> Run:
    """Read a run; what is wrong with it becomes its ``reason``."""
    run = Run(folder, name)
    try:
        settings, result = folder / "settings.json", folder / "result.json"
        run.settings = read_json(settings if settings.exists() else result)
        if not settings.exists():
            run.settings = {key: value for key, value in run.settings.items() if key not in RESULTS}
        _check_settings(run.settings)
        if os.path.lexists(folder / "failed.txt"):
            run.reason = f"failed: {_reason_of_failure(folder)}"
        elif not result.exists():
            run.reason = "unfinished: no result.json yet"
        else:
            run.result = read_json(result)
            _check_result(run.result, run.settings)
    except (ValueError, OSError) as error:
        run.result, run.reason = {}, " ".join(str(error).split())
    return run


def read_text(path: Path) -> str:
    """Read a small regular file; bytes that are no UTF-8 become U+FFFD.

    Raises:
        ValueError: it is no regular file, or too large to be what it should be.
        OSError: it cannot be read.
    """
    return files.read_bytes(path).decode("utf-8", "replace")


def read_json(path: Path) -> dict[str, Any]:
    """Read ``settings.json`` or ``result.json``.

    Raises:
        ValueError: it is no regular file, too large, damaged, or of another format.
        OSError: it cannot be read.
    """
    try:
        content = files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if content.get("format") != FORMAT:
        raise ValueError(f"{path.name} is not of format {FORMAT}")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``settings.json`` or ``result.json``, whole."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def begin_run(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run, or check that a run that was begun has the same.

    Raises:
        UserError: the folder holds a run with other settings, or damaged ones.
    """
    path = folder / "settings.json"
    wanted = {"format": FORMAT, **settings}
    if not os.path.lexists(path):
        write_json(path, wanted)
        return
    try:
        found = read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}; remove {folder} and run again") from None
    changes = [
        f"{name} {found.get(name)}, not {wanted.get(name)}"
        for name in wanted | found
        if wanted.get(name) != found.get(name) and (name in found or name not in ADDED)
    ]
    if changes:
        raise UserError(
            f"{folder} holds a run with {', '.join(changes)}; set RUNS to another folder"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Make the folder if need be, and hold its lock in this context.

    Gives the open descriptor of ``lock``, which the commands of the run are to inherit: a training
    that outlives whoever began it then still holds the lock.

    Raises:
        UserError: the folder cannot be written to, or somebody else works on it.
    """
    import fcntl  # not on Windows, where runs can be reported but not made

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise UserError(
            f"cannot make {folder}; set RUNS to a folder that can be written to"
        ) from None
    try:
        lock = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        raise UserError(
            f"cannot write in {folder}; set RUNS to a folder that can be written to"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is being trained already; wait for it, or give another model or seed"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield lock
    finally:
        os.close(lock)


def begin_stage(folder: Path, stage: str) -> None:
    """Note when a stage began."""
    write_text(folder / f"began.{stage}", f"{int(time.time())}\n")


def end_stage(folder: Path, stage: str, ended: float | None = None) -> None:
    """Add to a stage's seconds; it ended at ``ended`` (seconds since 1970), by default now."""
    began = folder / f"began.{stage}"
    seconds = int(time.time() if ended is None else ended) - _whole_number(began)
    total = folder / f"seconds.{stage}"
    write_text(total, f"{max(seconds, 0) + (_whole_number(total) if total.exists() else 0)}\n")
    began.unlink()


def end_killed_stages(folder: Path) -> None:
    """What a kill -9 left running ended when the run's folder was last written to."""
    killed = [path.name.removeprefix("began.") for path in folder.glob("began.*")]
    last_written = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
    for stage in killed:
        end_stage(folder, stage, last_written)


def wall_seconds(folder: Path) -> int:
    """What all stages took, over all interruptions."""
    return sum(_whole_number(path) for path in folder.glob("seconds.*"))


def _whole_number(path: Path) -> int:
    try:
        return int(read_text(path))
    except ValueError:
        raise UserError(f"{path} is damaged; remove it and run again") from None


def _reason_of_failure(folder: Path) -> str:
    try:
        text = read_text(folder / "failed.txt")
    except (ValueError, OSError) as error:
        text = f"{error} failed.txt"
    return " ".join(text.split()) or "no reason in failed.txt"


def _check_settings(settings: dict[str, Any]) -> None:
    for key in (*TEXTS, *NUMBERS):
        kind = str if key in TEXTS else int
        value = settings.get(key)
        is_proper = isinstance(value, kind) and not isinstance(value, bool)
        if is_proper and kind is int:
            is_proper = abs(value) < LARGEST_INTEGER  # type: ignore[arg-type]
        if not is_proper:
            settings.clear()  # nothing can be told from them
            raise ValueError(f"settings without a proper {key}: {_short(value)}")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = "a huge value"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_result(result: dict[str, Any], settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if result.get(key) != value:
            raise ValueError(
                f"result.json is of other settings: {key} is {_short(result.get(key))}, "
                f"settings.json has {_short(value)}"
            )
    metrics = result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ValueError("result.json has no metrics")
    for name, metric in metrics.items():
        value = metric.get("value") if isinstance(metric, dict) else None
        if not files.is_number(value):
            raise ValueError(f"result.json has no finite {name}: {_short(metric)}")
        if metric.get("better") not in ("higher", "lower"):
            raise ValueError(f"result.json does not say which {name} is better")
    for name in ("parameters", "trained_parameters", "target_tokens_per_second", "wall_seconds"):
        value = result.get(name)
        if value is not None and not files.is_number(value):
            raise ValueError(f"result.json has {name} {_short(value)}")
    for name, expected in (("signatures", dict), ("versions", dict), ("commands", list)):
        if not isinstance(result.get(name, expected()), expected):
            raise ValueError(f"result.json has {name} {_short(result[name])}")
