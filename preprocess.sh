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
export PYTHONPATH="$here/serve${PYTHONPATH:+:$PYTHONPATH}" # where fairseq_mem_text is

# ------------------------------------------------------------ options

declare -A prefix=() # of each split
source='' target='' out=''
bpe=10000 separate=no normalize=yes nfc=yes nonprinting=keep dedup=no min_words=1 max_words=250 max_ratio=1.5
max_positions=1024 workers='' redo=no

while [ $# -gt 0 ]; do
    option=$1
    case $option in
    -h | --help) usage && exit ;;
    --separate) separate=yes && shift && continue ;;
    --no-normalize) normalize=no nfc=no && shift && continue ;;
    --no-nfc) nfc=no && shift && continue ;;
    --remove-nonprinting) nonprinting=remove && shift && continue ;;
    --dedup) dedup=yes && shift && continue ;;
    --redo) redo=yes && shift && continue ;;
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
splits=(train valid)
[ -z "${prefix[test]:-}" ] || splits+=(test)
for name in bpe max_words max_positions; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "--${name//_/-} ${!name}: give a whole number above 0"
done
[[ $min_words =~ ^[0-9]+$ ]] || fail "--min-words $min_words: give a whole number"
[[ $max_ratio =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--max-ratio $max_ratio: give a number such as 1.5"
workers=${workers:-$(getconf _NPROCESSORS_ONLN)}
[[ $workers =~ ^[1-9][0-9]*$ ]] || fail "--workers $workers: give a whole number above 0"
[ "$normalize$nonprinting" != noremove ] ||
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
if ! command -v fairseq-preprocess >/dev/null ||
    ! "$PYTHON" -c 'import sacremoses, subword_nmt' 2>/dev/null; then
    fail "$PYTHON lacks sacremoses, subword-nmt or fairseq; run 'make install', or set PYTHON"
fi

# ------------------------------------------------------------ what was asked, what is there

show() { # a command, so that it can be copied
    printf '+'
    printf ' %q' "$@"
    printf '\n'
}

run() {
    show "$@"
    "$@"
}

settings="source $source
target $target
bpe $bpe
separate $separate
normalize $normalize
min-words $min_words
max-words $max_words
max-ratio $max_ratio
max-positions $max_positions"
# Only where they are not as before these options were there: older data stays valid.
[ "$nfc" = no ] || settings+=$'\n'"nfc yes"
[ "$nonprinting" = keep ] || settings+=$'\n'"nonprinting $nonprinting"
[ "$dedup" = no ] || settings+=$'\n'"dedup $dedup"
echo "== Checking the text"
for split in "${splits[@]}"; do
    limit=()
    [ "$split" = train ] || limit=(--max-tokens $((max_positions - 1)))
    found=$("$PYTHON" -m fairseq_mem_text check "${limit[@]}" "${prefix[$split]}.$source" "${prefix[$split]}.$target")
    settings+=$'\n'$(paste -d' ' <(printf '%s.%s\n' "$split" "$source" "$split" "$target") <(echo "$found"))
    [ "$split" != train ] || pairs=${found##* }
    echo "$split: ${found##* } pairs"
done

partial="${out:?}/partial" # everything is made here and moved up when it is complete

changed() { # what differs between the settings in file $1 and those asked for
    { diff <(grep -v '^#' "$1") <(echo "$settings") || true; } |
        sed -nE 's/^</  made with/p; s/^>/  asked for/p'
}

if [ -e "$out/settings.txt" ]; then
    if [ "$redo" = no ]; then
        changes=$(changed "$out/settings.txt")
        [ -n "$changes" ] || { echo "$out is complete: nothing to do" && exit; }
        if [ "$changes" = '  asked for nfc yes' ]; then
            echo "$out is complete, made before characters were composed (NFC): nothing to do, or --redo"
            exit
        fi
        echo "$changes"
        fail "$out holds data of other options or text (see above); choose another --out, or replace it with --redo"
    fi
elif [ ! -e "$partial/lock" ] && [ ! -e "$partial/settings.txt" ] && [ -d "$out" ] &&
    [ -n "$(find "$out" -mindepth 1 ! \( -type d -name partial \))" ]; then
    fail "$out holds files that preprocess.sh didn't make; choose another --out"
fi
mkdir -p "$partial" || fail "cannot make $partial; choose an --out that can be written to"
exec 9>>"$partial/lock" || fail "cannot write in $partial; choose an --out that can be written to"
if command -v flock >/dev/null; then
    flock -n 9 || fail "another preprocess.sh is working in $out; wait for it to end"
fi
# What is in `partial` counts as long as its settings.txt is there: that one is removed first and
# written last, so that what a kill left of a removal is never taken for finished stages.
if [ -e "$partial/settings.txt" ]; then
    changes=$(changed "$partial/settings.txt")
    if [ -n "$changes" ]; then
        echo "$changes"
        echo "An unfinished run with other options or text (see above) is discarded"
        rm -f "$partial/settings.txt"
    else
        echo "Continuing an unfinished run"
    fi
fi
if [ ! -e "$partial/settings.txt" ]; then
    find "$partial" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
    mkdir "$partial/text" || fail "cannot make $partial/text; choose an --out that can be written to"
    versions=$("$PYTHON" -c 'from importlib.metadata import version
for name in ("sacremoses", "subword-nmt"): print("#", name, version(name))')
    printf '%s\n' "$versions" "$settings" >"$partial/settings.new" ||
        fail "cannot write $partial/settings.new; is the disk full?"
    mv "$partial/settings.new" "$partial/settings.txt"
fi

# ------------------------------------------------------------ the stages

text="$partial/text"

tokenize_and_clean() {
    local split options
    for split in "${splits[@]}"; do
        options=(--source-lang "$source" --target-lang "$target" --workers "$workers")
        [ "$normalize" = yes ] || options+=(--no-normalize)
        [ "$nfc" = no ] || options+=(--nfc)
        [ "$nonprinting" = keep ] || options+=(--remove-nonprinting)
        [ "$split" != train ] ||
            options+=(--clean --min-words "$min_words" --max-words "$max_words" --max-ratio "$max_ratio")
        [ "$split$dedup" != trainyes ] || options+=(--dedup)
        [ -e "$text/$split.counts" ] ||
            run "$PYTHON" -m fairseq_mem_text tokenize "${options[@]}" \
                "${prefix[$split]}.$source" "${prefix[$split]}.$target" "$text/$split"
        echo "$split: $(cat "$text/$split.counts")"
    done
}

learn_bpe() { # codes file, training files
    [ -e "$1" ] || run "$PYTHON" -m fairseq_mem_text learn-bpe --merges "$bpe" --workers "$workers" --output "$@"
}

segment() {
    local split language codes options target_codes="$partial/code"
    if [ "$separate" = no ]; then
        learn_bpe "$partial/code" "$text/train.$source" "$text/train.$target"
    else
        target_codes="$partial/code.$target"
        learn_bpe "$partial/code" "$text/train.$source"
        learn_bpe "$target_codes" "$text/train.$target"
    fi
    for split in "${splits[@]}"; do
        for language in "$source" "$target"; do
            codes="$partial/code"
            [ "$language" = "$source" ] || codes=$target_codes
            options=(--codes "$codes" --workers "$workers")
            [ "$split" = train ] || options+=(--max-tokens $((max_positions - 1)))
            [ -e "$text/$split.bpe.$language" ] ||
                run "$PYTHON" -m fairseq_mem_text apply-bpe "${options[@]}" \
                    "$text/$split.$language" "$text/$split.bpe.$language"
        done
    done
}

binarize() {
    local split language options command log="$partial/fairseq.log" parts=$workers
    # fairseq gives all parts but the first to its workers, waits for them, then does the first one
    # itself: with long texts, smaller parts keep all cores busy. The data are the same.
    [ "$pairs" -lt 50000 ] || [ "$workers" -eq 1 ] || parts=$((4 * workers))
    [ "$parts" -le 64 ] || parts=64 # as many processes at a time, of some 60 MB each
    options=(--source-lang "$source" --target-lang "$target" --workers "$parts")
    [ "$separate" = yes ] || options+=(--joined-dictionary)
    for split in "${splits[@]}"; do
        options+=("--${split}pref" "$text/$split.bpe")
    done
    rm -rf "${partial:?}/bin"
    command=(fairseq-preprocess "${options[@]}" --destdir "$partial/bin")
    show "${command[@]}"
    "${command[@]}" >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        fail "fairseq-preprocess failed (above; $(df -Pm "$out" | awk 'NR == 2 { print $4 }') MiB free in $out);" \
            "mend the cause and run again, finished stages are kept"
    }
    grep -hE '\] Dictionary|tokens,' "$partial/bin/preprocess.log" || true
    for split in "${splits[@]}"; do
        for language in "$source" "$target"; do
            "$PYTHON" -m fairseq_mem_text verify "$text/$split.bpe.$language" \
                "$partial/bin/$split.$source-$target.$language"
        done
    done
}

if [ ! -e "$partial/complete" ]; then
    echo "== Tokenising"
    tokenize_and_clean
    echo "== BPE"
    segment
    echo "== Binarising"
    binarize
    : >"$partial/complete"
fi

# ------------------------------------------------------------ into place

# settings.txt says that the folder is complete: it goes first and comes last.
if [ ! -e "$partial/placing" ]; then # else a run was stopped here: what is in place is new
    rm -f "$out/settings.txt"
    rm -rf "${out:?}/text" "$out"/code* "$out"/dict.* "$out"/{train,valid,test}.*
    : >"$partial/placing"
fi
for made in "$partial"/bin/* "$partial"/code* "$partial/text"; do
    [ ! -e "$made" ] || mv -f "$made" "$out/"
done
mv "$partial/settings.txt" "$out/settings.txt"
rm -rf "$partial"
echo "== $out is complete"
