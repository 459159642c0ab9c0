# Puts the documents on the hard disk of this copy, and mends what changed there since. Then runs its arguments.
set -eu
B=/bin/busybox
documents=${DOCUMENTS:-/documents}
archive=${ARCHIVE:-/archive}
cd "$documents"
$B find . -type f | while IFS= read -r file; do
    kept="$archive/${file#./}"
    if [ -e "$kept" ]; then
        if $B cmp -s "$file" "$kept"; then continue; fi
        echo "mended ${file#./}"
    fi
    $B mkdir -p "$($B dirname "$kept")"
    $B cp "$file" "$archive/.new" # whole before it is there
    $B mv "$archive/.new" "$kept"
done
$B sync
[ "$#" -eq 0 ] || exec "$@"
