#!/usr/bin/env bash
# The models of documents that are missing, and their table. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/documents/table.sh [--models MODEL ...] [--seeds SEED ...] [--sizes SIZE ...]
                                   [--jobs N] [--out FOLDER]

Runs run.sh for every model, seed and size that is not finished, then `fairseq-mem report`: BLEU, chrF
and losses, of all sentences, with the intervals of the differences to the model sentence. Beside it
context.md: losses of first and of later sentences, what the context is worth, and terms that stay.

  --models   default: sentence fresh context-1 context-3 plain-4 gate-4 gate-4-before
  --seeds    default: 1 2 3
  --sizes    trial (default), iwslt
  --jobs N   so many at a time (default 1), sharing this machine's GPUs or cores
  --out      where the table goes (default RUNS/report)

DATA, RUNS and the other variables of run.sh are passed on. Stop it at any point and run it again: it
continues. A cell that fails is named at the end and doesn't stop the others.
HELP
}

out='' previous=''
for word in "$@"; do
    case $word in -h | --help) usage && exit ;; esac
    [ "$previous" != --out ] || out=${out:-$word}
    previous=$word
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=scripts/recipe.sh
source "$root/scripts/recipe.sh"
use_environment "${VENV:-$root/.venv}" fairseq-mem
DATA=$(absolute_path "${DATA:-$here/work/verses/de-en}")
RUNS=$(absolute_path "${RUNS:-$here/runs/$(basename "$(dirname "$DATA")")-$(basename "$DATA")}")
export DATA RUNS
status=0
python -m fairseq_mem.runs table --script "$here/run.sh" --runs "$RUNS" \
    --default-models sentence fresh context-1 context-3 plain-4 gate-4 gate-4-before \
    --baseline sentence --default-seeds 1 2 3 --default-sizes trial -- "$@" || status=$?
[ $status -le 1 ] || exit $status # interrupted
if [ -z "${DRY_RUN:-}" ] && compgen -G "$RUNS/*/*/seed-*/terms.txt" >/dev/null; then
    python "$here/context_table.py" "$RUNS" "${out:-$RUNS/report}/context.md" || status=1
fi
exit $status
