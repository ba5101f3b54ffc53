"""What `pip install .` and `pip install ./serve` bring."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def distribution(folder: Path, out: Path) -> tuple[set[str], dict[str, str], str]:
    """The packages in a wheel, what it requires (not of extras), and its version."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--wheel-dir", str(out), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(files.read(metadata).decode())
        (licence,) = (name for name in names if name.endswith("/LICENSE"))
        assert files.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert about.get_payload().startswith("# fairseq"), "the page of a package index is empty"
    page = {"index.html", "page.css", "page.js", "favicon.svg"}
    assert page <= {name.split("/")[-1] for name in names if "/http/page/" in name}
    required = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    split = (re.fullmatch(r"([\w.-]+)(.*)", line) for line in required)
    packages = {name.split("/")[0] for name in names if name.endswith("/__init__.py")}
    return packages, {found[1]: found[2] for found in split}, about["Version"]


@pytest.mark.cli
def test_one_of_the_two_is_enough(tmp_path):
    """The plugin brings what `fairseq-mem translate` of an exported model needs."""
    checkout = tmp_path / "checkout"  # building leaves files behind
    for name in ("fairseq_mem", "serve"):
        shutil.copytree(
            ROOT / name, checkout / name, ignore=shutil.ignore_patterns("build", "*.egg-info")
        )
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, checkout / name)
    packages, required, version = distribution(checkout, tmp_path / "plugin")
    serving, serving_required, serving_version = distribution(
        checkout / "serve", tmp_path / "serving"
    )
    assert serving == {"fairseq_mem_text", "fairseq_mem_serve"}
    assert packages == {"fairseq_mem", *serving}
    assert {"ctranslate2", "jsonschema", "sacremoses", "subword-nmt"} <= set(serving_required)
    assert serving_required.items() <= required.items()  # the same ranges
    assert version == serving_version
