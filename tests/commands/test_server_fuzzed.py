"""The server, fuzzed from its own description by schemathesis."""

import subprocess
import sys

import pytest
from helpers.served import HANGS, Server


@pytest.mark.slow
@pytest.mark.cli
def test_nothing_that_its_description_allows_or_forbids_is_an_error_of_its_own(
    translator_files, tmp_path
):
    pytest.importorskip("schemathesis")
    with Server(translator_files.exported, "--threads", 1) as server:
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", "--seed", "1", "--no-color",
                "--max-examples", "200", "--suppress-health-check", "all",
                # what a schema cannot say is refused too: nbest is at most beam
                "--exclude-checks", "positive_data_acceptance",
                f"http://127.0.0.1:{server.port}/openapi.json",
            ],
            capture_output=True, text=True, timeout=HANGS * 4, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.ask("/health").status == 200
        assert not [
            line for line in server.log.splitlines() if " 500 " in line or "unexpected" in line
        ]
        assert server.stop() == 0
