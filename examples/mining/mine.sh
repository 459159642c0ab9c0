# Text mining with nothing but busybox. Reads /corpus, writes /result. Same input, same bytes out.
set -eu
B=/bin/busybox
export LC_ALL=C
corpus=${CORPUS:-/corpus}
result=${RESULT:-/result}
app=${APP:-/app}
tmp=${TMP:-/tmp}
case "$TOP" in
    '' | *[!0-9]*) echo "TOP must be a whole number" >&2; exit 2 ;;
esac

# A text that is there under two names (GPL is GPL-3) counts once, under the longer name.
$B find "$corpus" -type f -exec $B sha256sum {} + | $B sort -k1,1 -k2,2r |
    $B awk '!($1 in seen) { seen[$1] = 1; sub(/^[^ ]+ +/, ""); print }' | $B sort > "$tmp/files.list"
echo "reading $($B wc -l < "$tmp/files.list") texts"
# One stream with a header line before each text, so that awk needs no file names as arguments.
while IFS= read -r file; do
    printf '\001%s\n' "${file#"$corpus"/}"
    $B awk 1 "$file" # and a newline at the end where it is missing
done < "$tmp/files.list" > "$tmp/corpus.txt"

$B awk -v words="$tmp/words.tsv" -v summary="$result/summary.json" -v top="$TOP" -f "$app/mine.awk" "$tmp/corpus.txt"
{
    printf 'word\tcount\ttexts\n'
    # Most frequent first, ties by word: a total order, so nothing depends on awk's tables.
    $B sort -t "$(printf '\t')" -k2,2nr -k1,1 "$tmp/words.tsv" | $B head -n "$TOP"
} > "$result/words.tsv"
$B rm -f "$tmp/words.tsv" "$tmp/corpus.txt" "$tmp/files.list"
echo "done: $($B wc -c < "$result/words.tsv") bytes of words, $($B wc -c < "$result/summary.json") bytes of summary"
