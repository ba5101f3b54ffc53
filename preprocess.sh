#!/usr/bin/env bash
# Raw parallel text -> data that fairseq-train reads. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: preprocess.sh --source LANG --target LANG --train PREFIX --valid PREFIX
                     [--test PREFIX] --out FOLDER [options]

Raw parallel text to binarised data: compose characters (Unicode's NFC), normalise
punctuation, Moses-tokenise (sacremoses), drop training pairs by length and ratio, learn BPE on the training
text (subword-nmt), apply it, fairseq-preprocess with one dictionary for both
languages. PREFIX stands for two UTF-8 files, PREFIX.SOURCE and PREFIX.TARGET, one
sentence a line, line N of one the translation of line N of the other.

  -s, --source LANG      source language, for instance de
  -t, --target LANG      target language, for instance en
      --train PREFIX     training text; the only one that lines are dropped from
      --valid PREFIX     validation text
      --test PREFIX      test text (optional)
      --out FOLDER       where the data goes; new, empty, or of an earlier run
      --bpe N            number of BPE merges (default 10000)
      --separate         own merges and own dictionary for each language
      --no-normalize     leave characters and punctuation as they are, see below
      --no-nfc           leave characters as they are: a u and two dots, as files of macOS and
                         PDFs have them, are not made one letter
      --remove-nonprinting  remove control characters, soft hyphens and the like
                         (`sacremoses normalize -c`)
      --min-words N      drop training pairs with a shorter side (default 1 word)
      --max-words N      drop training pairs with a longer side (default 250 words)
      --max-ratio R      drop training pairs of a greater length ratio (default 1.5)
      --dedup            drop training pairs that are equal to an earlier one
      --documents        an empty line ends a document, in both languages (no sentence itself), for
                         --task document_translation: FOLDER/SPLIT.documents
      --max-positions N  longest line that the model will take, with its end mark
                         (default 1024, as in fairseq); a longer line of the
                         validation or test text is an error
      --workers N        processes (default: all cores)
      --redo             replace data that was made with other options or text
  -h, --help

Run the same command again after an interruption: finished stages are kept. The
Python is $PYTHON, or .venv/bin/python beside this script, or python3.

FOLDER then holds fairseq's files, `code` (the BPE merges, under the name by which
fairseq's hub interface finds them), `settings.txt` (what it was made from), and
`text/` (tokenised text, and the counts of what was kept and dropped).

Translating raw text with `--tokenizer moses --bpe subword_nmt --bpe-codes FOLDER/code`
tokenises and splits it exactly as here. fairseq doesn't normalise punctuation, though:
typographic quotes, dashes and spaces in raw input are rare or unknown to the model
unless it passes `uconv -x nfc | sacremoses -l LANG normalize` first
(`fairseq-mem translate` does all that FOLDER/settings.txt says). Normalising is nevertheless the
default, as in fairseq's own recipes: it gives all spellings of a quote one token. With
--no-normalize training text is treated exactly as fairseq treats raw input.
HELP
}

fail() {
    echo "preprocess.sh: $*" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# ------------------------------------------------------------ options

declare -A prefix=() # of each split
source='' target='' out=''
bpe=10000 min_words=1 max_words=250 max_ratio=1.5 max_positions=1024 workers=''
flags=() # options without a value

while [ $# -gt 0 ]; do
    option=$1
    case $option in
    -h | --help) usage && exit ;;
    --separate | --no-normalize | --no-nfc | --remove-nonprinting | --dedup | --documents | --redo)
        flags+=("$option") && shift && continue ;;
    esac
    [ $# -ge 2 ] || fail "$option needs a value; see --help"
    case $option in
    -s | --source) source=$2 ;;
    -t | --target) target=$2 ;;
    --train) prefix[train]=$2 ;;
    --valid) prefix[valid]=$2 ;;
    --test) prefix[test]=$2 ;;
    --out) out=${2%/} ;;
    --bpe) bpe=$2 ;;
    --min-words) min_words=$2 ;;
    --max-words) max_words=$2 ;;
    --max-ratio) max_ratio=$2 ;;
    --max-positions) max_positions=$2 ;;
    --workers) workers=$2 ;;
    *) fail "unknown option $option; see --help" ;;
    esac
    shift 2
done

for name in source target out; do
    [ -n "${!name}" ] || fail "--$name is missing; see --help"
done
for split in train valid; do
    [ -n "${prefix[$split]:-}" ] || fail "--$split is missing; see --help"
done
for name in bpe max_words max_positions; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "--${name//_/-} ${!name}: give a whole number above 0"
done
[[ $min_words =~ ^[0-9]+$ ]] || fail "--min-words $min_words: give a whole number"
[[ $max_ratio =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--max-ratio $max_ratio: give a number such as 1.5"
workers=${workers:-$(getconf _NPROCESSORS_ONLN)}
[[ $workers =~ ^[1-9][0-9]*$ ]] || fail "--workers $workers: give a whole number above 0"
[[ " ${flags[*]} " != *" --no-normalize "* || " ${flags[*]} " != *" --remove-nonprinting "* ]] ||
    fail "--remove-nonprinting is a part of normalising: leave out --no-normalize"
[[ $source != "$target" ]] || fail "--source and --target are both $source; give two languages"
# fairseq reads a comma and a colon in a path as the border between two paths.
[[ $out != *[,:]* ]] || fail "--out $out: fairseq can't use a folder with , or : in its name"

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x "$here/.venv/bin/python" ] || PYTHON="$here/.venv/bin/python"
fi
python=$PYTHON
PYTHON=$(command -v "$python") || fail "there is no Python $python; run 'make install', or set PYTHON"
PATH="$(dirname "$PYTHON"):$PATH" # where pip put fairseq-preprocess
export PYTHONPATH="$here/serve${PYTHONPATH:+:$PYTHONPATH}" # where fairseq_mem_text is
if ! command -v fairseq-preprocess >/dev/null ||
    ! "$PYTHON" -c 'import sacremoses, subword_nmt' 2>/dev/null; then
    fail "$PYTHON lacks sacremoses, subword-nmt or fairseq; run 'make install', or set PYTHON"
fi

exec "$PYTHON" -m fairseq_mem_text prepare --source="$source" --target="$target" \
    --train="${prefix[train]}" --valid="${prefix[valid]}" --test="${prefix[test]:-}" --out="$out" \
    --bpe="$bpe" --min-words="$min_words" --max-words="$max_words" --max-ratio="$max_ratio" \
    --max-positions="$max_positions" --workers="$workers" "${flags[@]}"
