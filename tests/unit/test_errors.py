"""What people are told is one line that does no harm to a terminal."""

import subprocess
import sys

from fairseq_mem import UserError


def test_control_characters_are_escaped():
    """A dictionary's line, a file's name: they come from elsewhere."""
    error = UserError("line \x1b]0;title\a of a\nb is 'ä\u2028\udcff 日本'")
    assert str(error) == (r"fairseq_mem: line \x1b]0;title\x07 of a\nb is 'ä\u2028\udcff 日本'")


def test_it_ends_a_program_in_one_line():
    words = [sys.executable, "-c", "from fairseq_mem import UserError; raise UserError('a\\nb')"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == r"fairseq_mem: a\nb"
