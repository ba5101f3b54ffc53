#!/usr/bin/env bash
# A task that must be learned: reverse a line of letters. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/reversal/run.sh [ARCHITECTURE [MEMORY_TOKENS]]

Trains one small model to reverse lines of 4 to 12 random letters, translates 500 lines that it has
not seen, beam 4, and prints how many are right to the last letter. ARCHITECTURE is mem_transformer
(default), mem_ctrl_transformer, mem_ctrl_shared_transformer or mem_bottleneck_transformer, and
MEMORY_TOKENS 10. A few minutes on two cores; a second run does nothing twice.

  WORK=FOLDER     everything made here (default examples/reversal/work)
  UPDATES=N       length of the training (default 1500)
  VENV=FOLDER     the environment of `make install` (default .venv)
HELP
}

case ${1:-} in -h | --help) usage && exit ;; esac

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

work=examples/reversal/work venv=.venv
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
arch=${1:-mem_transformer}
tokens=${2:-10}
updates=${UPDATES:-1500}
[ ! -d "$venv/bin" ] || PATH="$(cd "$venv/bin" && pwd):$PATH"
command -v fairseq-train >/dev/null || {
    echo "reversal: fairseq-train is not there; run 'make install' first" >&2
    exit 1
}
export CUDA_VISIBLE_DEVICES= # with --cpu fairseq fails where it sees a GPU
run="$work/$arch-$tokens-$updates"
mkdir -p "$run"

if [ ! -e "$work/data-bin/done" ]; then
    python examples/algorithmic/tasks.py reversal "$work/text"
    rm -rf "$work/data-bin"
    fairseq-preprocess --source-lang src --target-lang tgt --joined-dictionary \
        --trainpref "$work/text/train" --validpref "$work/text/valid" \
        --testpref "$work/text/test" --destdir "$work/data-bin" >"$work/preprocess.log" 2>&1
    touch "$work/data-bin/done"
fi

train=(
    fairseq-train "$work/data-bin" --user-dir fairseq_mem
    # the model
    --arch "$arch" --memory-tokens "$tokens" --share-all-embeddings
    --encoder-layers 2 --encoder-embed-dim 64 --encoder-ffn-embed-dim 256
    --encoder-attention-heads 4 --encoder-normalize-before
    --decoder-layers 2 --decoder-embed-dim 64 --decoder-ffn-embed-dim 256
    --decoder-attention-heads 4 --decoder-normalize-before
    # the training
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --dropout 0
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 --lr 3e-3
    --lr-scheduler polynomial_decay --warmup-updates 200
    --total-num-update "$updates" --max-update "$updates"
    --max-tokens 2000 --required-batch-size-multiple 1 --seed 1 --cpu --num-workers 0
    # checkpoints; batches anew for each epoch, so that a resumed training is the uninterrupted one
    --update-epoch-batch-itr True
    --save-dir "$run" --no-epoch-checkpoints --validate-interval 10 --save-interval 10
    --log-format simple --log-interval 100
)
if [ ! -e "$run/trained" ]; then
    echo "+ ${train[*]}"
    "${train[@]}" >>"$run/train.log" 2>&1 || {
        tail -n 3 "$run/train.log" >&2
        echo "reversal: fairseq-train failed; all it said is in $run/train.log" >&2
        exit 1
    }
    touch "$run/trained"
fi
if [ ! -e "$run/generate.txt" ]; then
    generate=(
        fairseq-generate "$work/data-bin" --user-dir fairseq_mem --path "$run/checkpoint_last.pt"
        --beam 4 --max-tokens 2000 --required-batch-size-multiple 1 --cpu
    )
    echo "+ ${generate[*]}"
    "${generate[@]}" >"$run/generate.partial" 2>"$run/generate.log" || {
        tail -n 3 "$run/generate.log" >&2
        exit 1
    }
    mv "$run/generate.partial" "$run/generate.txt"
fi
grep ^H- "$run/generate.txt" | sort -V | cut -f 3 | paste - "$work/text/test.tgt" |
    awk -F '\t' -v name="$arch, $tokens memory tokens" '
        $1 == $2 { right++ }
        END { printf "%s: %d of %d lines reversed without a mistake (%.1f %%)\n",
                  name, right, NR, 100 * right / NR }'
