# Reads every document through: digest, size and name of each, sorted. Same documents, same bytes out.
set -eu
B=/bin/busybox
export LC_ALL=C
documents=${DOCUMENTS:-/documents}
result=${RESULT:-/result}
cd "$documents"
$B find . -type f | $B sort | while IFS= read -r file; do
    printf '%s\t%s\t%s\n' "$($B sha256sum < "$file" | $B cut -c1-64)" "$($B wc -c < "$file")" "${file#./}"
done > "$result/inventory.tsv"
echo "$($B wc -l < "$result/inventory.tsv") documents"
