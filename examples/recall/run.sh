#!/usr/bin/env bash
# A task that needs memory: recall symbols from further away than segment and cache. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/recall/run.sh [MODEL]

Trains one small model to recall two symbols that it has read 27 words before, and prints how many
it recalls. A segment has 8 words and the cache 8 more, which two layers turn into a reach of 16
words before the segment: what is further away can only come through memory. MODEL is

  recurrent   4 memory tokens, handed on from segment to segment (default)
  gate        the same, through a gate
  memory      4 memory tokens, the trained ones in front of every segment
  xl          Transformer-XL

A few minutes on two cores; a second run does nothing twice.

  WORK=FOLDER     everything made here (default examples/recall/work)
  UPDATES=N       length of the training (default 3000)
  SEED=N          default 1
  DOTS=N          ask over so many words in between instead of 24, further than in training, say
  VENV=FOLDER     the environment of `make install` (default .venv)
HELP
}

case ${1:-} in -h | --help) usage && exit ;; esac

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

work=examples/recall/work venv=.venv
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=${1:-recurrent}
case $model in
    recurrent) memory=(--memory-tokens 4 --memory-recurrence 5) ;;
    gate) memory=(--memory-tokens 4 --memory-recurrence 5 --memory-carry gate) ;;
    memory) memory=(--memory-tokens 4) ;;
    xl) memory=(--memory-tokens 0) ;;
    *)
        echo "recall: no model '$model'; give recurrent, gate, memory or xl" >&2
        exit 1
        ;;
esac
use_cpu
updates=${UPDATES:-3000}
seed=${SEED:-1}
dots=${DOTS:-24}
positive_number "DOTS=" "$dots"
[ ! -d "$venv/bin" ] || PATH="$(cd "$venv/bin" && pwd):$PATH"
command -v fairseq-train >/dev/null || {
    echo "recall: fairseq-train is not there; run 'make install' first" >&2
    exit 1
}
run="$work/$model-$updates-$seed"
mkdir -p "$run"

if [ ! -e "$work/data-bin/done" ]; then
    python examples/algorithmic/tasks.py recall-far "$work/text"
    rm -rf "$work/data-bin"
    fairseq-preprocess --only-source --trainpref "$work/text/train" --validpref "$work/text/valid" \
        --testpref "$work/text/test" --destdir "$work/data-bin" >"$work/preprocess.log" 2>&1
    touch "$work/data-bin/done"
fi

# All models see the same words in an update: 32 rows of 5 segments of 8. Without recurrence a
# batch is one segment, and an update takes 5 of them.
update_freq=5
[[ $model != recurrent && $model != gate ]] || update_freq=1

train=(
    fairseq-train "$work/data-bin" --user-dir fairseq_mem --task streaming_language_modeling
    # the model
    --arch mem_transformer_xl_small "${memory[@]}" --tokens-per-sample 8 --cache-length 8
    --decoder-layers 2 --decoder-embed-dim 64 --decoder-ffn-embed-dim 128
    --decoder-attention-heads 4 --decoder-normalize-before
    # the training
    --criterion cross_entropy --dropout 0 --batch-size 32 --update-freq "$update_freq"
    --optimizer adam_fused --adam-betas '(0.9, 0.98)' --clip-norm 1 --lr 2e-3
    --lr-scheduler polynomial_decay --warmup-updates 100
    --total-num-update "$updates" --max-update "$updates" --seed "$seed" --cpu
    --distributed-world-size 1 # fairseq's own default is as many as there are GPUs
    # checkpoints; batches anew for each epoch, so that a resumed training is the uninterrupted one
    --update-epoch-batch-itr True
    --batch-size-valid 8 --validate-interval 100 --save-interval 100 --no-epoch-checkpoints
    --save-dir "$run" --log-format simple --log-interval 100
)
if [ ! -e "$run/trained" ]; then
    echo "+ ${train[*]}"
    "${train[@]}" >>"$run/train.log" 2>&1 || {
        tail -n 3 "$run/train.log" >&2
        echo "recall: fairseq-train failed; all it said is in $run/train.log" >&2
        exit 1
    }
    touch "$run/trained"
fi
data=$work/data-bin answers=$run/test.txt
if [ "$dots" -ne 24 ]; then # the same test lines with other gaps
    data=$work/dots-$dots answers=$run/test-$dots.txt
    if [ ! -e "$data/done" ]; then
        printf -v between ' .%.0s' $(seq "$dots")
        sed -E "s/^(keep . .)( \.)+ /\1$between /" "$work/text/test" >"$work/text/test-$dots"
        rm -rf "$data"
        fairseq-preprocess --only-source --testpref "$work/text/test-$dots" \
            --srcdict "$work/data-bin/dict.txt" --destdir "$data" >"$work/preprocess-$dots.log" 2>&1
        touch "$data/done"
    fi
fi
if [ ! -e "$answers" ]; then
    evaluate=(
        fairseq-eval-lm "$data" --user-dir fairseq_mem
        --task streaming_language_modeling --path "$run/checkpoint_last.pt"
        --gen-subset test --output-word-probs --cpu
    )
    echo "+ ${evaluate[*]}"
    "${evaluate[@]}" >"$answers.partial" 2>&1 || {
        tail -n 3 "$answers.partial" >&2
        exit 1
    }
    mv "$answers.partial" "$answers"
fi
python examples/recall/score.py "$model" <"$answers"
