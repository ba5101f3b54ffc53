#!/usr/bin/env bash
# What a trained model loses without its memory. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wmt14_de_en/lesion.sh CHECKPOINT... [-- OPTION...]

Evaluates a trained model (several checkpoints: its seeds) with 0, 2, 5, 10 and 20
memory slots, as far as it has them, and with both lesions in every scope; beam 4,
length penalty 0.6. Ends with a table (lesion.md, lesion.csv) and a chart
(lesion.png). Stop it at any point and run it again: it continues. What follows --
goes to `fairseq-mem lesion`, for instance: -- --slots 0 1 2 3 --cpu

  DATA=FOLDER     the binarised data (default examples/wmt14_de_en/work/data-bin)
  REFERENCE=FILE  raw reference of the test set, a sentence a line (default:
                  raw/test.LANGUAGE beside DATA; if there is none, the binarised
                  target, detokenised)
  OUT=FOLDER      where the results go (default ./lesion)
  VENV=FOLDER     the environment of `make install` (default .venv), or
  PYTHON=PROGRAM  any Python that has the requirements
HELP
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=scripts/recipe.sh
source "$root/scripts/recipe.sh"

checkpoints=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --) shift && break ;;
    -*) fail "unknown option $1; options of fairseq-mem lesion follow --, see --help" ;;
    *) checkpoints+=("$1") && shift ;;
    esac
done
[ ${#checkpoints[@]} -gt 0 ] || fail "give the checkpoint of a trained model; see --help"

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "${VENV:-$root/.venv}/bin/python" ]; then PYTHON=${VENV:-$root/.venv}/bin/python; fi
fi
data=${DATA:-$here/work/data-bin}
[ -d "$data" ] || fail "there is no folder $data; run prepare.sh, or set DATA to the binarised data"
if [ -z "${REFERENCE:-}" ] && [ -e "$data/settings.txt" ]; then
    REFERENCE=$(dirname "$data")/raw/test.$(sed -n 's/^target //p' "$data/settings.txt")
    [ -e "$REFERENCE" ] || REFERENCE=''
fi

command=(
    "$PYTHON" -m fairseq_mem lesion "${checkpoints[@]}" "$data"
    --out "${OUT:-lesion}" --beam 4 --lenpen 0.6 --max-len-a 1.2 --max-len-b 10 # as run.sh
)
[ -z "${REFERENCE:-}" ] || command+=(--reference "$REFERENCE")
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${command[@]}" "$@"
