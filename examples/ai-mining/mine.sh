# k-means with nothing but busybox. Reads /data, writes /result. Whole numbers only: same input, same bytes out.
set -eu
B=/bin/busybox
export LC_ALL=C
data=${DATA:-/data}
result=${RESULT:-/result}
app=${APP:-/app}
$B awk -v clusters="$CLUSTERS" -v rounds="$ROUNDS" -v centres="$result/centres.tsv" -f "$app/kmeans.awk" \
    "$data/customers.tsv" > "$result/clusters.tsv"
echo "$($B wc -l < "$result/clusters.tsv") rows in $CLUSTERS groups"
