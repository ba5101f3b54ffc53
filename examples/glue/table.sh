#!/usr/bin/env bash
# The cells of the table that are missing, and the table. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/glue/table.sh [--tasks TASK ...] [--models MODEL ...] [--seeds SEED ...]
                              [--jobs N] [--out FOLDER]

Runs run.sh for every task, model and seed that is not finished, then `fairseq-mem report`: means over
seeds, intervals, and a paired bootstrap against the baseline.

  --tasks    default: all that prepare.sh has prepared in DATA
  --models   default: baseline, mem-20 and mem-20-head
  --seeds    default: 1 2 3 4 5
  --jobs N   so many at a time (default 1), all on the same GPU or sharing this machine's cores
  --out      where the table goes (default RUNS/report)

START, DATA, RUNS and the other variables of run.sh are passed on. Stop it at any point and run it
again: it continues. A cell that fails is named at the end and doesn't stop the others.
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
export PYTORCH_NVML_BASED_CUDA_CHECK=1
data=${DATA:-$here/work/data} runs=${RUNS:-$here/runs}

tasks=() models=() seeds=() jobs=1 out='' option=''
for word in "$@"; do
    case $word in
    --tasks | --models | --seeds | --jobs | --out) option=${word#--} ;;
    -*) fail "unknown option $word; see --help" ;;
    *)
        case $option in
        tasks) tasks+=("$word") ;;
        models) models+=("$word") ;;
        seeds) whole_number '--seeds ' "$word" && seeds+=("$word") ;;
        jobs) jobs=$word && positive_number '--jobs ' "$jobs" ;;
        out) out=$word ;;
        *) fail "unknown argument $word; see --help" ;;
        esac
        ;;
    esac
done
if [ ${#tasks[@]} -eq 0 ]; then
    for path in "$data"/*/settings.txt; do
        [ ! -e "$path" ] || tasks+=("$(basename "$(dirname "$path")")")
    done
fi
[ ${#tasks[@]} -gt 0 ] || fail "$data holds no prepared task; run prepare.sh, or set DATA"
[ ${#models[@]} -gt 0 ] || models=(baseline mem-20 mem-20-head)
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3 4 5)

cells=''
for seed in "${seeds[@]}"; do
    for task in "${tasks[@]}"; do
        for model in "${models[@]}"; do cells+="$task $model $seed"$'\n'; done
    done
done
if [ -n "${DRY_RUN:-}" ]; then
    while read -r task model seed; do "$here/run.sh" "$task" "$model" "$seed"; done <<<"${cells%$'\n'}"
    exit
fi
[ "$jobs" -eq 1 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export GPUS=${GPUS:-$(count_gpus)}
[ "$GPUS" != 0 ] || use_cpu # for the process whose forks the cells are
status=0
printf '%s' "$cells" | python -m fairseq_mem.runs cells --script "$here/run.sh" --jobs "$jobs" || status=$?
[ $status -lt 2 ] || exit $status
reported=()
for task in "${tasks[@]}"; do reported+=("$runs/$task"); done
fairseq-mem report "${reported[@]}" --out "${out:-$runs/report}" --expect-models "${models[@]}" \
    --expect-seeds "${seeds[@]}" || exit 1
exit $status
