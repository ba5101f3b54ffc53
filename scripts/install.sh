#!/usr/bin/env bash
# Makes the environment VENV (default .venv) with PYTHON (default python3.11) and installs the
# tested set, the package itself in editable mode:
#   make install                                    or
#   PYTHON=python3.12 VENV=.venv312 scripts/install.sh
# A second run finds its record and does nothing; an interrupted one is taken up again.
# CONSTRAINTS names another file than constraints.txt: scripts/versions.sh tries other versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3.11}
venv=${VENV:-.venv}
constraints=${CONSTRAINTS:-constraints.txt}
record=$venv/.installed # written last: says what was installed, and where
log=$venv/install.log   # pip's output of the current stage

say() { printf 'install: %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# --- a Python we can use -----------------------------------------------------------------------

version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

require_3_11() { # VERSION, and whose it is
    case $1 in
        2.* | 3.[0-9] | 3.[0-9].* | 3.10.*)
            fail "$2 is Python $1, 3.11 or newer is needed: $3" ;;
    esac
}

if [[ -n ${PYTHON:-} || ! -d $venv ]]; then
    asked=$(version_of "$python") ||
        fail "PYTHON=$python does not run: install Python 3.11 or newer, or name one," \
            "for example: make install PYTHON=python3.12"
    require_3_11 "$asked" "PYTHON=$python" "for example: make install PYTHON=python3.12"
fi

# --- an environment we can use -----------------------------------------------------------------

remedy="remove it (rm -r '$venv') or choose another folder (VENV=...), then run make install again"

if [[ -d $venv ]]; then
    [[ -f $venv/pyvenv.cfg ]] || fail "VENV=$venv is there and is no virtual environment: $remedy"
    have=$(version_of "$venv/bin/python") ||
        fail "$venv/bin/python does not run, its Python is gone or the folder came from elsewhere: $remedy"
    require_3_11 "$have" "$venv" "$remedy"
    if [[ -n ${PYTHON:-} && ${have%.*} != "${asked%.*}" ]]; then
        fail "$venv was made with Python $have, PYTHON=$python is $asked: $remedy"
    fi
    # Commands carry the folder they were installed to, in their first lines.
    trouble=$("$venv/bin/python" - "$venv" <<'END'
import importlib.metadata
import os
import re
import sys

venv = sys.argv[1]
pip = os.path.join(venv, "bin", "pip")
if os.path.exists(pip):
    with open(pip) as script:
        written_for = re.search(r"(/[^\"\n]*)/bin/python", script.read(4096))
    if written_for and not (
        os.path.isdir(written_for[1]) and os.path.samefile(written_for[1], venv)
    ):
        print("moved", written_for[1])
        sys.exit()
try:
    print("fairseq", importlib.metadata.version("fairseq"))
except importlib.metadata.PackageNotFoundError:
    pass
END
    )
    case $trouble in
        moved*) fail "$venv was moved or copied from ${trouble#moved }, its commands no longer work: $remedy" ;;
        fairseq*) fail "PyPI's ${trouble} is installed in $venv and shares its folder with fairseq-fixed," \
            "which is needed: '$venv/bin/python' -m pip uninstall -y fairseq fairseq-fixed," \
            "then run make install again" ;;
    esac
fi

# --- nothing to do? ----------------------------------------------------------------------------

wanted() {
    cat "$constraints" setup.py serve/pyproject.toml scripts/install.sh | cksum
    pwd
    version_of "$venv/bin/python"
}

if [[ -f $record && $(cat "$record") == "$(wanted)" ]]; then
    say "$venv is up to date"
    exit 0
fi

# --- install -----------------------------------------------------------------------------------

explain() { # the stage that failed: turns pip's log into one line
    local stage=$1 again="then run make install again (log: $log)"
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full ($stage): free some space, $again"
    elif grep -q 'Python\.h: No such file' "$log"; then
        fail "Python's headers are missing ($stage): install them (Debian: python3-dev), $again"
    elif grep -q 'Failed building wheel' "$log" && ! command -v "${CXX:-g++}" >/dev/null; then
        fail "a C++ compiler is missing ($stage): install one (Debian: g++), $again"
    elif grep -qE '(NewConnection|NameResolution|ConnectTimeout|ReadTimeout|ConnectionReset|Proxy|SSL|IncompleteRead)Error|Read timed out|Connection refused' "$log"; then
        fail "no network ($stage): pip cannot reach its package index; connect, or set pip's proxy," \
            "$again"
    elif grep -qE 'No matching distribution found for|Cannot install .* because' "$log"; then
        local missing
        missing=$(sed -nE 's/.*No matching distribution found for //p; s/.*Cannot install (.*) because.*/\1/p' "$log")
        fail "pip finds no tested version of ${missing%%$'\n'*} for Python $(version_of "$venv/bin/python") ($stage):" \
            "let pip reach its package index, or try another Python, $again"
    fi
    fail "$stage failed: $(tail -n 1 "$log") (log: $log)"
}

pip_install() { # STAGE, then pip's arguments
    local stage=$1
    shift
    say "$stage"
    "$venv/bin/python" -m pip install --constraint "$constraints" --no-input --progress-bar off \
        --disable-pip-version-check "$@" >"$log" 2>&1 || explain "${stage%%:*}"
}

trap 'echo; fail "stopped: make install takes up where it was"' INT

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "1/4 environment $venv with $python: seconds"
    "$python" -m venv "$venv" >/dev/null 2>&1 ||
        fail "$python -m venv $venv failed: the folder must be writable and Python's venv and" \
            "ensurepip installed (Debian: apt install python3-venv)"
fi
rm -f "$record"

pip_install "2/4 torch and build tools: 1 to 10 minutes, 0.3 GB (CPU) or 3 GB (CUDA) to download" \
    torch numpy cython setuptools wheel
# With build isolation pip would download a second torch to build against. CUDA_HOME would ask for
# kernels that memory tokens don't use, and for a compiler of just the right version.
(
    unset CUDA_HOME
    pip_install "3/4 fairseq-fixed: 1 minute, and 3 more the first time if its C++ is compiled" \
        --no-build-isolation fairseq-fixed
)
pip_install "4/4 fairseq-mem, development tools and matplotlib: 1 minute" \
    --no-build-isolation --editable '.[dev,analysis,bert,http]'
# Earlier versions were two distributions; the one above now holds what the other one brought.
"$venv/bin/python" -m pip uninstall --yes fairseq-mem-serve >/dev/null 2>&1 || true

# pip keeps the wheel that it compiles, and takes it in the next environment, whose numpy may be
# another; fairseq then says "Please build Cython components" when it makes batches.
loads() {
    "$venv/bin/python" -c 'import fairseq.data.data_utils_fast, fairseq.data.token_block_utils_fast' \
        >"$log" 2>&1
}
if ! loads; then
    pip_install "fairseq-fixed once more, what pip had kept is for another numpy: 4 minutes" \
        --no-build-isolation --no-cache-dir --force-reinstall --no-deps fairseq-fixed
    loads || fail "fairseq-fixed is installed, but its compiled parts do not load:" \
        "$(tail -n 1 "$log") (log: $log)"
fi

versions=$("$venv/bin/fairseq-mem" --version 2>"$log") ||
    fail "installed, but does not run: $(tail -n 1 "$log") (log: $log)"

wanted >"$record.new"
mv "$record.new" "$record"
say "done: $versions in $venv"
