# What must hold of both versions before customers see them. Same files, same bytes out.
set -eu
B=/bin/busybox
export LC_ALL=C
stable=${STABLE:-/stable}
feature=${FEATURE:-/feature-x}
result=${RESULT:-/result}
check() { # NAME COMMAND…
    name=$1
    shift
    if "$@" > /dev/null 2>&1; then printf '%s\tok\n' "$name"; else printf '%s\tfailed\n' "$name"; fi
}
{
    for page in index.html app.js; do
        check "stable has $page" $B test -s "$stable/$page"
        check "feature-x has $page" $B test -s "$feature/$page"
    done
    check 'feature-x offers instant transfers' $B grep -q 'instant' "$feature/app.js"
    check 'stable does not offer them' $B sh -c '! "$0" grep -q instant "$1/app.js"' $B "$stable"
    check 'no page loads from elsewhere' $B sh -c '! "$0" grep -rqE "https?://" "$1" "$2"' $B "$stable" "$feature"
} > "$result/acceptance.tsv"
$B cat "$result/acceptance.tsv"
! $B grep -q failed "$result/acceptance.tsv"
