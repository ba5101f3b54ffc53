"""The files of examples/serve: linted, and their commands are commands."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq_mem_serve.http.main import build_parser

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "serve"


def test_the_container_file_has_no_fault():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, FOLDER / "Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = (FOLDER / "Containerfile").read_text()
    entry, command = (
        json.loads(re.search(rf"^{name} (.*)$", text, re.MULTILINE)[1])
        for name in ("ENTRYPOINT", "CMD")
    )
    args = build_parser().parse_args([*entry[1:], *command])
    assert (args.host, args.port, args.models) == ("0.0.0.0", 8000, ["/model"])


def test_the_unit_gives_the_server_time_to_stop(tmp_path):
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str
    unit.read(FOLDER / "fairseq-mem-serve.service")
    command = shlex.split(unit["Service"]["ExecStart"])
    assert Path(command[0]).name == "fairseq-mem-serve"
    args = build_parser().parse_args(command[1:])
    assert float(unit["Service"]["TimeoutStopSec"]) > args.drain_seconds + 5
    if shutil.which("systemd-analyze") is None:
        return
    text = (FOLDER / "fairseq-mem-serve.service").read_text().replace(command[0], sys.executable)
    (tmp_path / "fairseq-mem-serve.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "fairseq-mem-serve.service"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "fairseq-mem-serve.service" not in done.stderr, done.stderr


def test_the_proxy_has_the_servers_limits():
    text = (FOLDER / "nginx.conf").read_text()
    args = build_parser().parse_args(["model"])
    assert re.search(r"client_max_body_size (\d+)m;", text)[1] == str(args.max_body_bytes >> 20)
    assert int(re.search(r"proxy_read_timeout (\d+)s;", text)[1]) > args.request_seconds
    assert text.count("{") == text.count("}")
