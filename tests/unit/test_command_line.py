"""Only the command lines of fairseq's own programs are checked, and only what they know."""

import subprocess
import sys

import pytest

from fairseq_mem import UserError
from fairseq_mem.command_line import check_command_line, is_fairseq_program

MIXED_UP = ["--context-window", "512", "--num-workers", "4"]
NO_MEMORY = ["--memory-limit", "5", "--arch", "transformer"]


@pytest.mark.parametrize("arguments", [MIXED_UP, NO_MEMORY, ["--context-window"], ["--arch"]])
def test_a_program_of_somebody_else_may_call_its_options_what_it_likes(arguments, tmp_path):
    program = tmp_path / "my_program.py"
    program.write_text("import fairseq_mem\nprint('imported')\n")
    done = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


@pytest.mark.parametrize(
    "program",
    ["fairseq-eval-lm", "/usr/local/bin/fairseq-train", "/site-packages/fairseq_cli/train.py"],
)
def test_fairseqs_programs_are_known_however_they_are_started(program):
    assert is_fairseq_program(program)
    with pytest.raises(UserError, match=r"--num-workers 4: .* give --num-workers 1"):
        check_command_line([program, *MIXED_UP])
    with pytest.raises(UserError, match="--memory-limit needs an architecture with memory"):
        check_command_line([program, *NO_MEMORY])
    check_command_line([program, "--context-window"])  # fairseq's parser says what is missing
    check_command_line([program, "--memory-tokens", "5", "--arch"])


@pytest.mark.parametrize("program", ["", "-c", "fairseq-mem", "train.py", "/me/fairseq-train/x.py"])
def test_other_programs_are_left_alone(program):
    check_command_line([program, *MIXED_UP, *NO_MEMORY])


@pytest.mark.cli
@pytest.mark.parametrize("start", ["fairseq-train", "python -m fairseq_cli.train"])
def test_an_architecture_without_memory_is_refused_in_one_line(start, tmp_path):
    command = [sys.executable, "-m", "fairseq_cli.train"] if "-m" in start else [start]
    done = subprocess.run(
        [*command, tmp_path, "--user-dir", "fairseq_mem", *NO_MEMORY],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "fairseq_mem: --memory-limit needs an architecture"
    )


def test_a_number_of_thousands_of_digits_is_left_to_fairseqs_parser():
    check_command_line(["fairseq-eval-lm", "--context-window", "9" * 5000])
