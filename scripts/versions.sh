#!/usr/bin/env bash
# Tries other versions than the tested ones: makes an environment for each entry, one after the
# other, and runs tests in it. For docs/reference/versions.md.
#   scripts/versions.sh                       every entry (an hour, 8 GB of disk at a time)
#   scripts/versions.sh lowest python3.13     these
#   scripts/versions.sh -- tests/unit -x      other tests, or pytest's options, for every entry
#   KEEP=1 scripts/versions.sh lowest         the environment stays, in .venv-versions/lowest
# Entries: lowest (the oldest version that setup.py's ranges admit of everything in them, torch
# included), torch-X.Y.Z (of the tested set all but torch), newest (the newest of everything), and
# python3.N (the tested set under another Python, which must be installed).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

entries=() tests=()
while [[ $# -gt 0 && $1 != -- ]]; do
    entries+=("$1")
    shift
done
[[ $# -eq 0 ]] || tests=("${@:2}")
[[ ${#entries[@]} -gt 0 ]] || entries=(lowest torch-2.9.1 newest python3.12 python3.13 python3.14)
[[ ${#tests[@]} -gt 0 ]] || tests=(-m "not slow and not cli")

folder=.venv-versions
mkdir -p "$folder"
python=${PYTHON:-python3.11}

lowest() { # the resolver's answer for what setup.py names, printed
    local names
    [[ -x $folder/uv/bin/uv ]] || {
        "$python" -m venv "$folder/uv"
        "$folder/uv/bin/python" -m pip install --quiet uv
    }
    names=$(grep -oE '"[a-z0-9-]+[><=]' setup.py | tr -d '"><=' | paste -sd '|')
    # For 3.12 fairseq-fixed has a wheel; its source tells what it needs only once it is built.
    "$folder/uv/bin/uv" pip compile --quiet --no-header --no-annotate setup.py \
        --resolution lowest-direct --python-version 3.12 \
        --extra dev --extra analysis --extra bert --extra http |
        grep -E "^($names)=="
}

constrain() { # ENTRY: the versions to install, printed
    local build_tools='^(cython|setuptools|wheel)=='
    case $1 in
        lowest)
            lowest | grep -vE "$build_tools"
            grep -E "$build_tools" constraints.txt ;;
        torch-*)
            grep -vE '^torch(audio)?==' constraints.txt
            printf 'torch==%s\ntorchaudio==%s\n' "${1#torch-}" "${1#torch-}" ;;
        newest)
            grep -E "$build_tools" constraints.txt ;;
        *)
            cat constraints.txt ;;
    esac
}

failed=0
for entry in "${entries[@]}"; do
    venv=$folder/$entry
    interpreter=$python
    [[ $entry != python* ]] || interpreter=$entry
    if ! "$interpreter" -c '' 2>/dev/null; then
        echo "versions: $entry: not tried, $interpreter is not there"
        continue
    fi
    constrain "$entry" >"$venv.txt"
    if PYTHON=$interpreter VENV=$venv CONSTRAINTS=$venv.txt scripts/install.sh; then
        result=0
        PATH="$PWD/$venv/bin:$PATH" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
            "$venv/bin/python" -m pytest -q "${tests[@]}" >"$venv.log" 2>&1 || result=$?
        tail -n 1 "$venv.log" | sed "s/^/versions: $entry: /"
        "$venv/bin/python" -m pip freeze --exclude-editable >"$venv.installed.txt"
    else
        result=1
        echo "versions: $entry: cannot be installed"
    fi
    [[ $result -eq 0 ]] || failed=1
    [[ -n ${KEEP:-} ]] || rm -rf "$venv"
done
exit "$failed"
