"""`make install`: what it says when it can't, and that it does nothing twice.

Nothing is downloaded and no real environment is touched: pip has no index, or a stand-in that only
notes how it was called takes its place.
"""

import os
import shutil
import subprocess
import sys
import venv

import pytest
from helpers.commands import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory):
    """An environment without pip: made in no time."""
    path = tmp_path_factory.mktemp("bare") / ".venv"
    venv.create(path, with_pip=False, symlinks=True)
    return path


@pytest.fixture
def environment(bare_environment, tmp_path):
    return shutil.copytree(bare_environment, tmp_path / ".venv", symlinks=True)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the installation reads, free to be changed."""
    copy = tmp_path / "checkout"
    files = (
        "Makefile",
        "setup.py",
        "constraints.txt",
        "scripts/install.sh",
        "serve/pyproject.toml",
    )
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


def make_install(root=ROOT, **settings):
    """Runs `make install`; returns the exit status, the last line before make's own, and all."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "VENV", "PYTHONPATH")
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in outer and not name.startswith("PIP_")
    }
    pip = {name: settings.pop(name) for name in list(settings) if name.startswith("PIP_")}
    result = subprocess.run(
        ["make", "-C", root, "--no-print-directory", "install"]
        + [f"{name}={value}" for name, value in settings.items()],
        env=environ | {"PIP_CONFIG_FILE": os.devnull} | pip,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = [line for line in result.stdout.splitlines() if not line.startswith("make")]
    return result.returncode, lines[-1], result.stdout


def site_packages(environment):
    (path,) = environment.glob("lib/python3.*/site-packages")
    return path


def stand_in_for_pip(environment):
    """A pip that notes its arguments in calls.txt.

    It fails when one of them is the first line of fail.txt, with the second line as its message.
    The compiled parts of the fairseq that it kept do not load as long as kept.txt is there.
    """
    package = site_packages(environment) / "pip"
    package.mkdir()
    (package / "__main__.py").write_text(
        """
import pathlib, sys, sysconfig
home = pathlib.Path(sys.prefix)
parts = pathlib.Path(sysconfig.get_path("purelib"), "fairseq", "data")
if "fairseq-fixed" in sys.argv:
    parts.mkdir(parents=True, exist_ok=True)
    broken = (home / "kept.txt").exists() and "--no-cache-dir" not in sys.argv
    for name in ("data_utils_fast.py", "token_block_utils_fast.py"):
        (parts / name).write_text("raise ImportError('of another numpy')" if broken else "")
if "install" in sys.argv:
    with open(home / "calls.txt", "a") as calls:
        print(*sys.argv[1:], file=calls)
    fail = home / "fail.txt"
    if fail.exists() and fail.read_text().splitlines()[0] in sys.argv:
        sys.exit(fail.read_text().splitlines()[1])
    command = home / "bin" / "fairseq-mem"
    command.write_text("#!/bin/sh\\necho fairseq-mem 0: a stand-in\\n")
    command.chmod(0o755)
"""
    )
    return environment / "calls.txt"


def an_older_python(tmp_path):
    script = tmp_path / "python3.10"
    script.write_text("#!/bin/sh\necho 3.10.13\nexit 0\n")
    script.chmod(0o755)
    return script


def test_python_that_is_not_there(tmp_path):
    status, last, _ = make_install(PYTHON="python3.99", VENV=tmp_path / "new")
    assert status != 0
    assert last.startswith("error: PYTHON=python3.99 does not run: install Python 3.11")
    assert not (tmp_path / "new").exists()


def test_python_that_is_too_old(tmp_path):
    status, last, _ = make_install(PYTHON=an_older_python(tmp_path), VENV=tmp_path / "new")
    assert status != 0
    assert "is Python 3.10.13, 3.11 or newer is needed" in last
    assert not (tmp_path / "new").exists()


def test_environment_made_by_a_python_that_is_too_old(environment, tmp_path):
    (environment / "bin" / "python").unlink()
    shutil.copy(an_older_python(tmp_path), environment / "bin" / "python")
    status, last, _ = make_install(VENV=environment)
    assert status != 0
    assert last.startswith(f"error: {environment} is Python 3.10.13")
    assert f"rm -r '{environment}'" in last


def test_environment_whose_python_is_gone(environment):
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").symlink_to("/nowhere/python")
    status, last, _ = make_install(VENV=environment)
    assert status != 0
    assert "does not run" in last
    assert f"rm -r '{environment}'" in last


def test_environment_that_was_moved(environment, tmp_path):
    old_home = tmp_path / "old home"
    (environment / "bin" / "pip").write_text(
        f"#!/bin/sh\n'''exec' \"{old_home}/bin/python\" \"$0\"\n"
    )
    status, last, _ = make_install(VENV=environment)
    assert status != 0
    assert f"was moved or copied from {old_home}, " in last


def test_folder_that_is_no_environment(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    status, last, _ = make_install(PYTHON=sys.executable, VENV=tmp_path)
    assert status != 0
    assert f"VENV={tmp_path} is there and is no virtual environment" in last
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_fairseq_in_the_way(environment):
    metadata = site_packages(environment) / "fairseq-0.12.2.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: fairseq\nVersion: 0.12.2\n")
    status, last, _ = make_install(VENV=environment)
    assert status != 0
    assert last.startswith("error: PyPI's fairseq 0.12.2 is installed in ")
    assert "pip uninstall -y fairseq fairseq-fixed" in last


def test_no_network(tmp_path):
    path = tmp_path / "with a space"
    settings = {"PYTHON": sys.executable, "VENV": path}
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    status, last, output = make_install(**settings, **nowhere)
    assert status != 0
    assert last.startswith("error: no network (2/4 torch and build tools)")
    assert last.endswith(f"(log: {path}/install.log)")
    assert "Traceback" not in output

    status, last, _ = make_install(**settings, PIP_NO_INDEX="1")
    assert status != 0
    assert last.startswith("error: pip finds no tested version of torch for Python 3.")


def test_second_run_does_nothing_until_something_changes(environment, checkout):
    calls = stand_in_for_pip(environment)
    status, last, output = make_install(checkout, VENV=environment)
    assert status == 0, output
    assert last == f"install: done: fairseq-mem 0: a stand-in in {environment}"
    assert "python3.11" not in output  # the environment was there
    stages = calls.read_text().splitlines()
    assert [line.split()[-1] for line in stages] == [
        "wheel",
        "fairseq-fixed",
        ".[dev,analysis,bert,http]",
    ]
    assert all("--constraint constraints.txt" in line for line in stages)
    assert not any("index" in line for line in stages)
    assert "--no-build-isolation" in stages[1]

    status, last, _ = make_install(checkout, VENV=environment)
    assert (status, last) == (0, f"install: {environment} is up to date")
    assert len(calls.read_text().splitlines()) == 3

    with open(checkout / "constraints.txt", "a") as constraints:
        constraints.write("# changed\n")
    assert make_install(checkout, VENV=environment)[0] == 0
    assert len(calls.read_text().splitlines()) == 6

    status, last, _ = make_install(checkout.rename(checkout.with_name("moved")), VENV=environment)
    assert status == 0
    assert len(calls.read_text().splitlines()) == 9  # the package lies elsewhere now


def test_interrupted_installation_is_finished(environment, checkout):
    calls = stand_in_for_pip(environment)
    assert make_install(checkout, VENV=environment)[0] == 0
    setup = (checkout / "setup.py").read_text()
    (checkout / "setup.py").write_text(f"{setup}# changed\n")
    (environment / "fail.txt").write_text("fairseq-fixed\nERROR: the stand-in fails")
    status, last, _ = make_install(checkout, VENV=environment)
    assert status != 0
    assert last == (
        "error: 3/4 fairseq-fixed failed: ERROR: the stand-in fails"
        f" (log: {environment}/install.log)"
    )
    (environment / "fail.txt").unlink()
    (checkout / "setup.py").write_text(setup)  # as before, the environment is not
    before = len(calls.read_text().splitlines())
    status, last, _ = make_install(checkout, VENV=environment)
    assert (status, last.split(":")[1]) == (0, " done")
    assert len(calls.read_text().splitlines()) == before + 3


def test_a_kept_wheel_for_another_numpy_is_made_anew(environment, checkout):
    """pip keeps what it compiled, in an environment with an older numpy for one."""
    calls = stand_in_for_pip(environment)
    (environment / "kept.txt").touch()
    status, last, everything = make_install(checkout, VENV=environment)
    assert (status, last.split(":")[1]) == (0, " done")
    assert "fairseq-fixed once more" in everything
    assert "--no-cache-dir" in calls.read_text().splitlines()[3]

    (environment / ".installed").unlink()
    site_packages(environment).joinpath("pip", "__main__.py").write_text("")  # does nothing
    for path in site_packages(environment).glob("fairseq/data/*.py"):
        path.write_text("raise ImportError('of another numpy')")
    status, last, _ = make_install(checkout, VENV=environment)
    assert status != 0 and not (environment / ".installed").exists()
    assert last == (
        "error: fairseq-fixed is installed, but its compiled parts do not load: "
        f"ImportError: of another numpy (log: {environment}/install.log)"
    )


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full (3/4 fairseq-fixed)"),
        ("fatal error: Python.h: No such file or directory", "Python's headers are missing"),
        ("ERROR: Failed building wheel for fairseq-fixed", "a C++ compiler is missing"),
        ("NameResolutionError: Failed to resolve", "no network (3/4 fairseq-fixed)"),
        ("ERROR: No matching distribution found for fairseq-fixed", "pip finds no tested version"),
        ("ERROR: of another kind", "3/4 fairseq-fixed failed: ERROR: of another kind"),
    ],
)
def test_cause_and_log_are_named(environment, checkout, monkeypatch, message, cause):
    stand_in_for_pip(environment)
    (environment / "fail.txt").write_text(f"fairseq-fixed\n{message}")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    status, last, _ = make_install(checkout, VENV=environment)
    assert status != 0
    assert last.startswith(f"error: {cause}")
    assert last.endswith(f"(log: {environment}/install.log)")


def test_another_python_than_the_environment_was_made_with(environment, tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.98.0\n")
    other.chmod(0o755)
    status, last, _ = make_install(VENV=environment, PYTHON=other)
    assert status != 0
    assert f"PYTHON={other} is 3.98.0: remove it (rm -r '{environment}')" in last


def test_clean_keeps_what_the_user_made(checkout):
    built = ["build/lib/x.py", "fairseq_mem.egg-info/PKG-INFO", "tests/__pycache__/x.pyc"]
    kept = ["examples/quickstart/work/checkpoints/last.pt", "data-bin/dict.txt", ".venv/bin/python"]
    for name in built + kept:
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).touch()
    result = subprocess.run(
        ["make", "-C", checkout, "clean", "VENV=.venv"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "kept .venv" in result.stdout
    assert not any((checkout / name).exists() for name in built)
    assert all((checkout / name).exists() for name in kept)
