"""The list of mistakes that can be planted stays true: run.py plants them, this runs every time."""

import ast
import shlex

from mutations.mistakes import ROOT, Mistake, read_mistakes


def problem(mistake: Mistake) -> str | None:
    """What is wrong with an entry; None if nothing is."""
    text = (ROOT / mistake.file).read_text(encoding="utf-8")
    if found := mistake.problem(text):
        return found
    if ast.dump(ast.parse(mistake.planted(text))) == ast.dump(ast.parse(text)):
        return f"{mistake.what}: changes nothing"
    named = [part for part in shlex.split(mistake.tests) if part.startswith("tests/")]
    missing = [name for name in named if not (ROOT / name.split("::")[0]).exists()]
    return f"{mistake.what}: no {missing or 'tests'}" if missing or not named else None


def test_every_mistake_can_be_planted() -> None:
    """The original is there once, what becomes of it is Python, and the tests' files exist."""
    mistakes = read_mistakes()
    assert [found for mistake in mistakes if (found := problem(mistake))] == []
    assert len(mistakes) == len({mistake.what for mistake in mistakes}) >= 60


def test_an_entry_that_is_no_longer_true_is_told() -> None:
    ours = Mistake("what", "fairseq_mem/errors.py", "class UserError", "class Other", "tests/unit")
    assert problem(ours) is None
    assert "0 times" in str(problem(ours._replace(line="nowhere in it")))
    assert "changes nothing" in str(problem(ours._replace(mistaken="class  UserError")))
    assert "nowhere.py" in str(problem(ours._replace(tests="tests/nowhere.py")))
