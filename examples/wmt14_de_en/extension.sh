#!/usr/bin/env bash
# Memory for a trained baseline, beside the same baseline trained on without. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wmt14_de_en/extension.sh [SEED ...]

A trained baseline (run.sh baseline SEED) is trained on for UPDATES more updates (default: 10000 of
the sizes base and small, 400 of trial), from the same weights and with the same flags, as
  baseline         without memory
  mem-N            with N memory tokens (TOKENS, default 10)
  mem-N-only       with N memory tokens, everything else frozen
and all are translated, scored and reported beside the baseline that they began as. SEED: default
1 2 3. The variables are those of run.sh. Stop it at any point and run it again: it continues.
HELP
}

case ${1:-} in -h | --help) usage && exit ;; esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/recipe.sh
source "$here/../../scripts/recipe.sh"
runs=${RUNS:-$here/runs}
use_environment "${VENV:-$here/../../.venv}" fairseq-mem
tokens=${TOKENS:-10}
export SIZE=${SIZE:-base}
case $SIZE in trial) updates=400 ;; *) updates=10000 ;; esac
export UPDATES=${UPDATES:-$updates}
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3)

for seed in "${seeds[@]}"; do
    start=$runs/$SIZE/baseline/seed-$seed/model.pt
    [ -e "$start" ] || fail "no trained baseline $start; run: run.sh baseline $seed"
done
for seed in "${seeds[@]}"; do
    for model in baseline "mem-$tokens" "mem-$tokens-only"; do
        START=$runs/$SIZE/baseline/seed-$seed/model.pt "$here/run.sh" "$model" "$seed"
    done
done
[ -z "${DRY_RUN:-}" ] || exit 0
fairseq-mem report "$runs/$SIZE-extension" "$runs/$SIZE/baseline" --out "$runs/$SIZE-extension/report"
