#!/usr/bin/env bash
# A sentence encoder of your own: a vocabulary, and pre-training on masked words. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/glue/pretrain.sh TEXT OUT

TEXT is a file with a sentence a line. Makes a WordPiece vocabulary of it, trains a mem_roberta on
masked words, and leaves in OUT what prepare.sh (MODEL=OUT) and run.sh (START=OUT) want: model.pt,
dict.txt, tokenizer.json and flags.txt. Stop it at any point and run it again: it continues.

  UPDATES=N        length of the training (default 2000)
  TOKENS=N         memory tokens (default 10); fine-tuning takes them over. 0 for an encoder with which
                   models with memory are compared with such without, which would miss their slots
  WORDS=N          pieces in the vocabulary (default 8000)
  ARCH_FLAGS=...   the model (default --arch mem_roberta_small: 4 layers of 128)
  BATCH=N          blocks of 128 tokens of an update (default 32)
  GPUS=N           0 = CPU (default: those of this machine)
  TRAIN_FLAGS=...  more flags for fairseq-train
  VENV=FOLDER      the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 2 ] || fail "give a text and a folder, for instance: pretrain.sh text.txt encoder (see --help)"
text=$(absolute_path "$1") out=$(absolute_path "$2") venv=.venv
[ -f "$text" ] || fail "there is no file $1; check its name"
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
use_environment "$venv" fairseq-train
gpus=${GPUS:-$(count_gpus)} updates=${UPDATES:-2000} tokens=${TOKENS:-10} batch=${BATCH:-32}
pieces=${WORDS:-8000}
whole_number GPUS= "$gpus"
whole_number TOKENS= "$tokens"
positive_number WORDS= "$pieces"
for name in updates batch; do positive_number "${name^^}=" "${!name}"; done
read -ra arch <<<"${ARCH_FLAGS:---arch mem_roberta_small} --max-positions 512"
read -ra more <<<"${TRAIN_FLAGS:-}"
if [ -e "$out/model.pt" ]; then
    echo "$out/model.pt is there: nothing to do"
    exit
fi
[ -e "$out/dict.txt" ] || python examples/glue/vocabulary.py "$text" "$out" "$pieces" "${arch[@]}" || exit 1
device=(--fp16)
[ "$gpus" -gt 0 ] || device=(--cpu)
[ "$gpus" -gt 0 ] || use_cpu
train=(
    fairseq-train "$out/data" --user-dir fairseq_mem --task masked_lm --criterion masked_lm
    --sample-break-mode complete --tokens-per-sample 128 --mask-prob 0.15
    # the model
    "${arch[@]}" --memory-tokens "$tokens"
    # how it learns, and how long
    --optimizer adam_fused --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1
    --lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates $((updates / 16))
    --total-num-update "$updates" --max-update "$updates" --dropout 0.1
    --batch-size "$batch" --required-batch-size-multiple 1 --update-epoch-batch-itr True --seed 1
    --distributed-world-size $((gpus > 0 ? gpus : 1)) "${device[@]}" --num-workers 0
    # checkpoints
    --save-dir "$out/checkpoints" --no-epoch-checkpoints --save-interval-updates 500
    --keep-interval-updates 1 --log-format simple --log-interval 50
    "${more[@]}"
)
echo "== Pre-training, $updates updates (everything it says is in $out/train.log)"
show "${train[@]}"
"${train[@]}" >>"$out/train.log" 2>&1 || fail "fairseq-train failed: $(tail -n 1 "$out/train.log")"
mv "$out/checkpoints/checkpoint_best.pt" "$out/model.pt"
rm -r "$out/checkpoints"
grep -o "valid on 'valid' subset.*" "$out/train.log" | tail -n 1
echo "$out is ready: prepare.sh with MODEL=$out, run.sh with START=$out"
