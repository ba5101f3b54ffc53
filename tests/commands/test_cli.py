"""The `fairseq-mem` command: in this process where possible, as users run it where it matters."""

import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

import fairseq_mem
from fairseq_mem.tools import cli

PACKAGE = Path(fairseq_mem.__file__).resolve().parent


def run(*command, cwd=PACKAGE.parent):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def usage_error(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def command_module(monkeypatch, **attributes):
    """Registers a command `try-out` whose file is a stand-in."""
    module = ModuleType("fairseq_mem.tools.try_out")
    vars(module).update(
        add_parser=lambda subparsers: subparsers.add_parser("try-out", help="a stand-in"),
        **attributes,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", ("try-out",))


def test_user_dir_is_all_that_stdout_holds():
    module = run(sys.executable, "-m", "fairseq_mem", "user-dir")
    assert module.returncode == 0, module.stderr
    assert module.stdout == f"{PACKAGE}\n"


@pytest.mark.cli
def test_installed_command_works_from_anywhere(tmp_path):
    command = shutil.which("fairseq-mem", path=Path(sys.executable).parent)
    if command is None:
        pytest.skip("fairseq-mem is not installed in this environment (make install does)")
    result = run(command, "user-dir", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.rstrip("\n")) / "__init__.py").is_file()
    failed = run(command, "nonsense", cwd=tmp_path)
    assert failed.returncode == 2
    (entry,) = entry_points(group="console_scripts", name="fairseq-mem")
    assert entry.load() is cli.main


def test_version_names_what_a_bug_report_needs(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code in (0, None)
    printed = capsys.readouterr().out
    assert printed.startswith(f"fairseq-mem {fairseq_mem.__version__}: ")
    for name in ("fairseq-fixed 0.12.3.1", "torch 2.", "Python 3."):
        assert name in printed


def test_help_lists_every_command(capsys, monkeypatch):
    command_module(monkeypatch, main=None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "user-dir" in printed
    assert "a stand-in" in printed


def test_usage_errors_are_one_line(capsys):
    assert "nonsense" in usage_error(capsys, "nonsense")
    assert "COMMAND" in usage_error(capsys)
    assert "extra" in usage_error(capsys, "user-dir", "extra")


def test_command_is_imported_only_when_called(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", ("is-not-there",))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["is-not-there"])
    command_module(monkeypatch, main=None)
    monkeypatch.setattr(cli, "COMMANDS", ("is-not-there", "try-out"))
    assert cli.main(["user-dir"]) == 0
    assert capsys.readouterr().out == f"{PACKAGE}\n"


def test_exit_status_of_a_command(monkeypatch):
    command_module(monkeypatch, main=lambda args: 3)
    assert cli.main(["try-out"]) == 3
    command_module(monkeypatch, main=lambda args: None)
    assert cli.main(["try-out"]) == 0


def test_what_the_user_can_mend_is_one_line(monkeypatch, tmp_path):
    missing = tmp_path / "missing"
    command_module(monkeypatch, main=lambda args: missing.read_text())
    with pytest.raises(fairseq_mem.UserError, match="missing") as stop:
        cli.main(["try-out"])
    assert "\n" not in str(stop.value)  # a SystemExit: Python prints it and exits with 1
