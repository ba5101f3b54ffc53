"""Which fairseq and torch are accepted, and what the checkpoint loader refuses."""

import argparse
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.distributed.utils import _split_tensors_from_obj
from helpers.commands import ROOT
from omegaconf import DictConfig, OmegaConf

from fairseq_mem import UserError, compat


def installed(monkeypatch, **versions):
    """Pretend that exactly these distributions are installed (``_`` for ``-``)."""
    table = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(compat, "_installed", table.get)


def test_the_tested_set_is_accepted(monkeypatch):
    installed(monkeypatch, fairseq_fixed="0.12.3.1", torch="2.13.0+cpu")
    compat.check_versions()


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        (dict(fairseq="0.12.2", torch="2.13.0"), r"fairseq 0\.12\.2 is installed.*pip uninstall"),
        (
            dict(fairseq="0.12.2", fairseq_fixed="0.12.3.1", torch="2.13.0"),
            r"fairseq 0\.12\.2 is installed",
        ),
        (dict(torch="2.13.0"), r"none is installed; run: pip install"),
        (
            dict(fairseq_fixed="0.12.4", torch="2.13.0"),
            r"needs fairseq-fixed 0\.12\.3\.1, 0\.12\.4",
        ),
        (dict(fairseq_fixed="0.12.3.1"), r"needs torch, none is installed"),
        (
            dict(fairseq_fixed="0.12.3.1", torch="2.5.1+cu121"),
            r"needs torch 2\.6 or newer, 2\.5\.1",
        ),
    ],
)
def test_others_are_refused_in_one_line(monkeypatch, versions, message):
    installed(monkeypatch, **versions)
    with pytest.raises(UserError, match=message) as refused:
        compat.check_versions()
    assert "\n" not in str(refused.value)


def test_the_command_speaks_before_fairseq_is_imported(tmp_path):
    """PyPI's fairseq does not import on Python 3.11: nothing of it may run before our line."""
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text("raise RuntimeError('imported')")
    info = tmp_path / "fairseq-0.12.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fairseq\nVersion: 0.12.2\n")
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_mem", "user-dir"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert "fairseq 0.12.2 is installed" in line and "pip uninstall" in line


class Hostile:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_a_hostile_checkpoint_is_refused_and_its_payload_not_run(tmp_path):
    trace, checkpoint = tmp_path / "trace", tmp_path / "hostile.pt"
    torch.save({"args": argparse.Namespace(arch="x"), "model": Hostile(trace)}, checkpoint)
    for suffix in ("de", "en"):
        (tmp_path / f"dict.{suffix}.txt").write_text("a 1\n")
    for suffix in ("idx", "bin"):
        (tmp_path / f"test.de-en.de.{suffix}").touch()
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "fairseq-generate"), str(tmp_path), "--user-dir",
            str(ROOT / "fairseq_mem"), "--path", str(checkpoint), "--cpu", "-s", "de", "-t", "en",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "posix.system" in done.stdout + done.stderr
    assert not trace.exists()
    # the payload is real: a loader that trusts it does run it
    with open(tmp_path / "bare.pkl", "wb") as file:
        pickle.dump(Hostile(trace), file)
    with open(tmp_path / "bare.pkl", "rb") as file:
        pickle.load(file)
    assert trace.exists()


def sent(state: object) -> io.BytesIO:
    """What the first of several workers sends the others when they resume."""
    buffer = io.BytesIO()
    torch.save(_split_tensors_from_obj(state, []), buffer)
    buffer.seek(0)
    return buffer


def options(**more: object) -> DictConfig:
    """fairseq's options as it holds them after reading a checkpoint."""
    saved = {
        "task": {"data": "data-bin", "shards": [1, "a"], "batch": "${dataset.batch_size}"},
        "dataset": {"batch_size": 3, "fraction": 0.5, "all": True, "none": None},
        "model": argparse.Namespace(arch="mem_transformer", layers=[1, 2]),
        **more,
    }
    return OmegaConf.create(saved, flags={"allow_objects": True})


def test_workers_understand_the_checkpoint_that_the_first_of_them_sends():
    state = {"cfg": options(), "model": {"weight": torch.zeros(2)}, "args": None}
    received = torch.load(sent(state))
    assert received["cfg"] == state["cfg"] and received["cfg"].task.batch == 3
    assert received["model"]["weight"].index == 0


def test_a_hostile_object_among_the_options_is_refused(tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.system"):
        torch.load(sent({"cfg": options(model=argparse.Namespace(arch=Hostile(trace)))}))
    assert not trace.exists()


def test_what_is_added_to_what_the_loader_may_load():
    program = """
import torch
before = set(torch.serialization.get_safe_globals())
from fairseq_mem import compat
compat.allow_fairseq_checkpoints()
added = set(torch.serialization.get_safe_globals()) - before
print(*sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in added))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split() == [
        "argparse.Namespace", "builtins.dict", "builtins.int", "builtins.list",
        "collections.defaultdict", "fairseq.distributed.utils._TensorPlaceholder",
        "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
        "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig",
        "omegaconf.nodes.AnyNode", "typing.Any",
    ]  # fmt: skip
