#!/usr/bin/env bash
# WMT-14 German-English, from the internet to data that fairseq-train reads. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wmt14_de_en/prepare.sh [options]

Fetches WMT-14's German-English text (Europarl v7, Common Crawl, News Commentary v9: 1.7 GB),
checks it, unpacks what is needed, adds newstest2013 for validation and newstest2014 (by
sacreBLEU) as the test set, and hands it to preprocess.sh: punctuation normalised, control
characters removed, Moses-tokenised, pairs of 1-250 words and a length ratio of at most 1.5,
joint BPE, fairseq-preprocess; all cores. Stop it at any point and run it again: it continues.

      --subset N      only N training pairs, at even distances over the whole text, before cleaning
      --corpora LIST  of europarl,commoncrawl,news, with commas (default all): with `news` alone
                      120 MB are fetched
      --dedup         keep the first of equal training pairs
      --bpe N         number of joint BPE merges (default 32000)
      --workers N     processes (default: all cores)
      --redo          replace what was made with other options
  -h, --help

  WORK=FOLDER       everything made here (default examples/wmt14_de_en/work): downloads/,
                    unpacked/, raw/{train,valid,test}.{de,en}, data-bin/
  DATA=FOLDER       the binarised data (default WORK/data-bin)
  DOWNLOADS=FOLDER  the archives (default WORK/downloads). Not needed any more once
                    WORK/unpacked is complete
  MIRROR=URL        where to fetch from instead of statmt.org: it has wmt13/, wmt14/ and wmt19/
                    in it
  SACREBLEU=FOLDER  sacreBLEU's cache (default ~/.sacrebleu): newstest2014 is taken from there
                    if it is there
  CHECKSUMS=FILE    other archives than WMT's own, for tests: lines of `NAME BYTES SHA256`, and
                    `newstest2014 LINES MD5` for sacreBLEU's archive
  RETRIES=N         tries in a row that bring nothing before it gives up (default 5)
  VENV=FOLDER       the environment of `make install` (default .venv), or
  PYTHON=PROGRAM    any Python that has the requirements
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

# ------------------------------------------------------------ options

raw_options=() options=() bpe=32000

while [ $# -gt 0 ]; do
    option=$1
    case $option in
    -h | --help) usage && exit ;;
    --dedup) options+=(--dedup) && shift && continue ;;
    --redo) options+=(--redo) && raw_options+=(--redo) && shift && continue ;;
    esac
    [ $# -ge 2 ] || fail "$option needs a value; see --help"
    case $option in
    --subset)
        positive_number "--subset " "$2"
        raw_options+=(--subset "$2")
        ;;
    --corpora)
        [[ ,$2, =~ ^(,(europarl|commoncrawl|news))+,$ ]] ||
            fail "--corpora $2: give europarl, commoncrawl, news, or several with commas"
        raw_options+=(--corpora "$2")
        ;;
    --bpe) bpe=$2 ;;
    --workers) options+=(--workers "$2") ;;
    *) fail "unknown option $option; see --help" ;;
    esac
    shift 2
done
positive_number "--bpe " "$bpe"

work=examples/wmt14_de_en/work
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
data=$work/data-bin
[ -z "${DATA:-}" ] || data=$(absolute_path "$DATA")
for name in DOWNLOADS SACREBLEU CHECKSUMS; do
    [ -z "${!name:-}" ] || export "$name=$(absolute_path "${!name}")"
done
whole_number RETRIES= "${RETRIES:-5}"

if [ -n "${VENV:-}" ] && [ -x "$(absolute_path "$VENV")/bin/python" ]; then
    PYTHON=$(absolute_path "$VENV")/bin/python
elif [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x "$root/.venv/bin/python" ] || PYTHON="$root/.venv/bin/python"
fi
python=$PYTHON
PYTHON=$(command -v "$python") || fail "there is no Python $python; run 'make install', or set PYTHON"
export PYTHON
cd "$root"
"$PYTHON" -c 'from importlib.util import find_spec as find
raise SystemExit(not all(map(find, ("sacrebleu", "sacremoses", "subword_nmt"))))' ||
    fail "$PYTHON lacks sacrebleu, sacremoses or subword-nmt; run 'make install', or set PYTHON"

# ------------------------------------------------------------ the stages

mkdir -p "$work" || fail "cannot make $work; set WORK to a folder that can be written to"
exec 8>>"$work/lock" || fail "cannot write in $work; set WORK to a folder that can be written to"
if command -v flock >/dev/null; then
    flock -n 8 || fail "another prepare.sh is working in $work; wait for it, or set WORK"
fi

echo "== Raw text"
run "$PYTHON" examples/wmt14_de_en/wmt14.py "${raw_options[@]}" "$work"
run ./preprocess.sh --source de --target en --bpe "$bpe" --remove-nonprinting "${options[@]}" \
    --train "$work/raw/train" --valid "$work/raw/valid" --test "$work/raw/test" --out "$data"
