#!/usr/bin/env bash
# The cells of the table that are missing, and the table. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wmt14_de_en/table.sh [--models MODEL ...] [--seeds SEED ...] [--sizes SIZE ...]
                                     [--jobs N] [--out FOLDER]

Runs run.sh for every model, seed and size that is not finished, then `fairseq-mem report`.

  --models   default: baseline and the paper's MemTransformer 5/10/20, MemCtrl 20, MemCtrl Shared
             20, MemBottleneck 10/20
  --seeds    default: 1 2 3
  --sizes    base (default), small, iwslt, trial
  --jobs N   so many at a time (default 1), sharing this machine's GPUs or cores
  --out      where the table goes (default RUNS/report)

DATA, RUNS and the other variables of run.sh are passed on. Stop it at any point and run it again: it
continues. A cell that fails is named at the end and doesn't stop the others; run again to retry it.
HELP
}

for word in "$@"; do
    case $word in -h | --help) usage && exit ;; esac
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=scripts/recipe.sh
source "$root/scripts/recipe.sh"
use_environment "${VENV:-$root/.venv}" fairseq-mem

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python -m fairseq_mem.runs table --script "$here/run.sh" --runs "${RUNS:-$here/runs}" \
    --default-models baseline mem-5 mem-10 mem-20 mem-ctrl-20 mem-ctrl-shared-20 \
    mem-bottleneck-10 mem-bottleneck-20 \
    --default-seeds 1 2 3 --default-sizes base -- "$@"
