#!/usr/bin/env bash
# Builds both distributions from what git tracks, checks them, installs each into an empty
# environment and tries it: 10 minutes, most of them to install.
#   scripts/release_check.sh [FOLDER]      where the files to publish go (default dist/)
# PYTHON (default python3.11) makes the environments. The plugin gets the tested set
# (constraints.txt), so that it is the plugin that is tried and not the day's newest versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3.11}
out=${1:-dist}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf 'release_check: %s\n' "$*"; }
fail() {
    printf 'release_check: %s\n' "$*" >&2
    exit 1
}
environment() { # NAME: makes one
    "$python" -m venv "$work/$1"
}
install() { # NAME, then pip's arguments
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$work/$1/bin/python" -m pip install --quiet --no-input "${@:2}"
}

[[ -z $(ls -A "$out") ]] || fail "$out is not empty: remove what is in it, or name another folder"

say "1/4 build: a source distribution and a wheel of each"
environment tools
install tools build twine
mkdir "$work/checkout"
git archive HEAD | tar -x -C "$work/checkout"
for folder in . serve; do
    "$work/tools/bin/python" -m build --outdir "$out" "$work/checkout/$folder" \
        >"$work/build.log" 2>&1 || fail "$folder cannot be built: $(tail -n 3 "$work/build.log")"
done

say "2/4 twine check"
"$work/tools/bin/twine" check --strict "$out"/*

# Outside of the checkout, so that nothing but the installed packages can be imported.
cd "$work"

say "3/4 fairseq-mem-serve in an empty environment"
environment serve
install serve "$(echo "$out"/fairseq_mem_serve-*.whl)[http]"
serve/bin/fairseq-mem-serve --help >/dev/null
serve/bin/python - <<'PY'
import importlib.util

import fairseq_mem_serve, fairseq_mem_serve.http.app, fairseq_mem_text  # noqa: F401

for heavy in ("torch", "fairseq", "fairseq_mem"):
    assert importlib.util.find_spec(heavy) is None, f"{heavy} came with fairseq-mem-serve"
PY

say "4/4 fairseq-mem in an empty environment: a model is built, scores and trains a step"
environment plugin
constraints=$work/checkout/constraints.txt
install plugin --constraint "$constraints" torch numpy cython setuptools wheel
# What pip keeps of it may be compiled for another numpy (scripts/install.sh).
(
    unset CUDA_HOME # as there: set to nothing it would still ask for CUDA's kernels
    install plugin --constraint "$constraints" --no-build-isolation --no-cache-dir fairseq-fixed
)
install plugin --constraint "$constraints" "$(echo "$out"/fairseq_mem-*.whl)[http]"
plugin/bin/python -m pip check
plugin/bin/fairseq-mem --version
plugin/bin/fairseq-mem-serve --help >/dev/null
user_dir=$(plugin/bin/fairseq-mem user-dir)
[[ $user_dir == "$work"/plugin/* ]] || fail "fairseq-mem user-dir says $user_dir"
mkdir text
for part in train valid; do
    for language in de en; do
        for _ in {1..20}; do printf 'a b c d\nb c d a\nc d a b\n'; done >"text/$part.$language"
    done
done
PATH="$work/plugin/bin:$PATH" bash -euxo pipefail >smoke.log 2>&1 <<SH || fail "the plugin does not work: $(tail -n 5 smoke.log)"
fairseq-preprocess --source-lang de --target-lang en --trainpref text/train \
    --validpref text/valid --destdir data --workers 1
fairseq-train data --user-dir "$user_dir" --arch mem_transformer_small --memory-tokens 2 \
    --optimizer adam --lr 0.001 --max-tokens 100 --max-update 2 --save-dir model --cpu
echo 'a b c d' | fairseq-mem translate model/checkpoint_last.pt --data data
fairseq-mem export model/checkpoint_last.pt data --out exported
"$work/serve/bin/python" -c 'from fairseq_mem_serve import load_translator
print(load_translator("exported").translate(["a b c d"]))'
SH
say "done: $(cd "$out" && echo *)"
