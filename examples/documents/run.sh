#!/usr/bin/env bash
# One model of documents: sentences first, then documents. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/documents/run.sh MODEL SEED

MODEL is one of
  sentence               sentence by sentence, no memory
  fresh                  10 memory tokens, fresh in every sentence
  context-N              N previous sentences in front of the source
  plain-K, gate-K        10 memory tokens handed on, as they are or through the gate; gradients reach
                         through windows of K sentences, with which memory begins fresh
  plain-K-before, gate-K-before   and the 8 sentences in front of a window are read without gradient

In two stages, both by examples/wmt14_de_en/run.sh: FIRST updates of single sentences, without memory or
with 10 fresh tokens, which all models of a seed share; then UPDATES more of documents, in windows of
the same number of sentences for all but K. Then its losses by the place in the document, with what is
carried, reset, and of a random other document (context.json, by `fairseq-mem context`), and the
share of terms that are translated as before (terms.txt). Stop it at any point and run it again:
it continues.

  DATA=FOLDER   by prepare.sh (default examples/documents/work/verses/de-en)
  RUNS=FOLDER   the runs (default examples/documents/runs/ and the data's name)
  SIZE=NAME     trial (default) or iwslt, as in examples/wmt14_de_en
  FIRST=N       updates of the first stage (default 6000)
  UPDATES=N     updates of the second stage (default 2000)
  GPUS, MAX_TOKENS, BATCH, DRY_RUN, VENV: as in examples/wmt14_de_en/run.sh
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 2 ] || fail "give a model and a seed, for instance: run.sh gate-4 1 (see --help)"
model=$1 seed=$2
whole_number "seed " "$seed"
window=4 first=mem-10 flags=''
if [[ $model =~ ^(plain|gate)-([1-9][0-9]*)(-before)?$ ]]; then
    window=${BASH_REMATCH[2]} flags="--memory-recurrence ${BASH_REMATCH[2]} --memory-carry ${BASH_REMATCH[1]}"
    flags+=" --read-before $([ -z "${BASH_REMATCH[3]}" ] && echo 0 || echo 8)"
elif [[ $model =~ ^context-([1-9][0-9]*)$ ]]; then
    first=baseline flags="--context-sentences ${BASH_REMATCH[1]}"
elif [ "$model" = sentence ]; then
    first=baseline
elif [ "$model" != fresh ]; then
    fail "there is no model $model; see --help"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
data=$(absolute_path "${DATA:-$here/work/verses/de-en}")
[ -e "$data/settings.txt" ] && [ -e "$data/test.documents" ] ||
    fail "$data is no data of prepare.sh; run it, or set DATA"
text=$(basename "$(dirname "$data")") pair=$(basename "$data")
runs=$(absolute_path "${RUNS:-$here/runs/$text-$pair}")
use_environment "${VENV:-$root/.venv}" fairseq-mem
export DATA=$data DATA_NAME=$text-$pair SIZE=${SIZE:-trial} GPUS=${GPUS:-$(count_gpus)}
export REFERENCE=${REFERENCE:-$(dirname "$data")/raw/reference.${pair#*-}}
sentences=$runs/first/$SIZE/$first/seed-$seed
run=$runs/$SIZE/$model/seed-$seed

# ------------------------------------------------------------ both stages

first_stage() { RUNS=$runs/first UPDATES=${FIRST:-6000} "$root/examples/wmt14_de_en/run.sh" "$first" "$seed"; }
second_stage() {
    RUNS=$runs UPDATES=${UPDATES:-2000} START=$1 NAME=$model LABEL=$model \
        TASK=document_translation TRAIN_FLAGS="--window-sentences $window $flags" \
        "$root/examples/wmt14_de_en/run.sh" "$first" "$seed"
}
if [ -n "${DRY_RUN:-}" ]; then
    first_stage
    # as if the first stage were done
    second_stage "$root/README.md" | sed "s|--finetune-from-model README.md|--finetune-from-model $sentences/model.pt|"
    exit
fi
mkdir -p "$runs" || fail "cannot make $runs; set RUNS to a folder that can be written to"
exec {lock}>"$runs/first-$SIZE-$first-$seed.lock"
flock "$lock" # a first stage that another model trains at the moment is waited for
first_stage
exec {lock}>&-
second_stage "$sentences/model.pt"

# ------------------------------------------------------------ what it makes of its context

device=()
[ "$GPUS" -gt 0 ] || device=(--cpu)
if [ ! -e "$run/context.json" ]; then
    [ "$GPUS" -gt 0 ] || use_cpu
    run fairseq-mem context "$run/model.pt" "$data" --out "$run/context.json" "${device[@]}"
fi
if [ ! -e "$run/terms.txt" ]; then
    # H-: translations as words, not yet put together
    grep '^H-' "$run/generate.txt" | sort -V | cut -f 3 >"$run/words.txt"
    python "$here/consistency.py" --train "$data/text/train" --source "${pair%-*}" --target "${pair#*-}" \
        --documents "$data/test.documents" --reference "$data/text/test.${pair#*-}" \
        "$data/text/test.${pair%-*}" "$run/words.txt" >"$run/terms.partial"
    mv "$run/terms.partial" "$run/terms.txt"
    cat "$run/terms.txt"
fi
