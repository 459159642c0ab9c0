# Refuses data that would not be served right: a report on success, exit code 1 and the lines otherwise.
set -eu
B=/bin/busybox
export LC_ALL=C
data=${DATA:-/data}
result=${RESULT:-/result}
$B awk -F '\t' -v OFS='\t' '
    FNR == 1 { want = NF; next }
    NF != want { printf "%s:%d: %d columns, %d wanted\n", FILENAME, FNR, NF, want > "/dev/stderr"; bad++ }
    $1 in seen { printf "%s:%d: %s is there twice\n", FILENAME, FNR, $1 > "/dev/stderr"; bad++ }
    { seen[$1] = 1; rows++ }
    END { if (bad) exit 1; print "customers", rows + 0 }
' "$data/customers.tsv" > "$result/report.tsv"
$B cat "$result/report.tsv"
