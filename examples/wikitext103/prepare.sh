#!/usr/bin/env bash
# WikiText-103, or a few articles for a trial: fetch, check, binarise. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wikitext103/prepare.sh [--small]

Fetches WikiText-103 (word level: the words outside its vocabulary are <unk>), checks it, unpacks and
binarises it into WORK/data-bin. With --small: the hundred Wikipedia articles that gensim's wheel
brings (27 MB, by pip), made into text of the same style, into WORK/small/data-bin; words that occur
less than three times in its training text are <unk>. Stop it at any point and run it again: it
continues, and does nothing twice.

  WORK=FOLDER     everything made here (default examples/wikitext103/work)
  CACHE=FOLDER    the downloads (default WORK/cache)
  URL=ADDRESS     the archive wikitext-103-v1.zip (default https://wikitext.smerity.com/...)
  SHA256=NUMBER   its checksum
  WORKERS=N       processes for binarising (default: the number of cores)
  VENV=FOLDER     the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

kind=wikitext103
case ${1:-} in
-h | --help) usage && exit ;;
--small) kind=small ;;
'') ;;
*) fail "unknown argument $1; see --help" ;;
esac

work=examples/wikitext103/work venv=.venv cache=''
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
[ -z "${CACHE:-}" ] || cache=$(absolute_path "$CACHE")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ ! -d "$venv/bin" ] || PATH="$(cd "$venv/bin" && pwd):$PATH"
command -v fairseq-preprocess >/dev/null ||
    fail "fairseq-preprocess is not there; run 'make install', or set VENV"
cache=${cache:-$work/cache}
mkdir -p "$cache" || fail "cannot make $cache; set WORK to a folder that can be written to"
workers=${WORKERS:-$(getconf _NPROCESSORS_ONLN)}
positive_number WORKERS= "$workers"
[ "$kind" = wikitext103 ] || work=$work/small
data=$work/data-bin
if [ -e "$data/settings.txt" ]; then
    echo "$data is there: nothing to do"
    exit
fi

# ------------------------------------------------------------ fetch

# The authors' address (s3.amazonaws.com/research.metamind.io) is gone; this is its author's mirror.
url=${URL:-https://wikitext.smerity.com/wikitext-103-v1.zip}
checksum=${SHA256:-242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590}
archive=$cache/wikitext-103-v1.zip

source=$cache
if [ "$kind" = wikitext103 ]; then
    source=$archive
    echo "== Fetching $url, 190 MB"
    # an older version began it under this name
    [ ! -e "$archive.partial" ] || mv "$archive.partial" "$archive.part"
    python examples/wikitext103/wiki.py fetch "$url" "$checksum" "$archive" || exit 1
fi

# ------------------------------------------------------------ text, numbers

if [ ! -d "$work/text" ]; then
    echo "== The text: $work/text"
    python examples/wikitext103/wiki.py "$kind" "$source" "$work/text" || exit 1
fi
echo "== Binarising: $data"
command=(
    fairseq-preprocess --only-source --workers "$workers" --destdir "$data.partial"
    --trainpref "$work/text/train.txt" --validpref "$work/text/valid.txt" --testpref "$work/text/test.txt"
)
[ "$kind" = wikitext103 ] || command+=(--thresholdsrc 3)
echo "+ ${command[*]}"
rm -rf "$data.partial"
"${command[@]}" >"$work/preprocess.log" 2>&1 ||
    fail "fairseq-preprocess failed: $(tail -n 1 "$work/preprocess.log")"
{
    if [ "$kind" = small ]; then echo 'name wikipedia-small'; else echo 'name wikitext103'; fi
    (cd "$work/text" && sha256sum train.txt valid.txt test.txt)
} >"$data.partial/settings.txt"
mv "$data.partial" "$data"
grep -o '[0-9]* sents, [0-9]* tokens, .*' "$work/preprocess.log"
echo "$data is ready: $(wc -l <"$data/dict.txt") words in the dictionary"
