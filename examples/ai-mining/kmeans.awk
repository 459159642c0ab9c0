# k-means over a table: first line names, first column an id, then whole numbers. Prints id and group.
BEGIN { FS = OFS = "\t" }
NR == 1 { columns = NF - 1; for (c = 1; c <= columns; c++) name[c] = $(c + 1); next }
{ rows++; id[rows] = $1; for (c = 1; c <= columns; c++) value[rows, c] = int($(c + 1)) }
END {
    if (clusters > rows) clusters = rows
    # The first centres: rows at equal distances, so that nothing is left to chance.
    for (k = 1; k <= clusters; k++) {
        row = int((k - 1) * rows / clusters) + 1
        for (c = 1; c <= columns; c++) centre[k, c] = value[row, c]
    }
    for (round = 1; round <= rounds; round++) {
        moved = 0
        for (k = 1; k <= clusters; k++) { size[k] = 0; for (c = 1; c <= columns; c++) sum[k, c] = 0 }
        for (r = 1; r <= rows; r++) {
            best = 0
            for (k = 1; k <= clusters; k++) {
                distance = 0
                for (c = 1; c <= columns; c++) {
                    away = value[r, c] - centre[k, c]
                    distance += away * away
                }
                if (!best || distance < least) { best = k; least = distance }
            }
            if (group[r] != best) { group[r] = best; moved++ }
            size[best]++
            for (c = 1; c <= columns; c++) sum[best, c] += value[r, c]
        }
        if (!moved) break
        for (k = 1; k <= clusters; k++)
            if (size[k]) for (c = 1; c <= columns; c++) centre[k, c] = int(sum[k, c] / size[k])
    }
    for (r = 1; r <= rows; r++) print id[r], group[r]
    printf "group\trows" > centres
    for (c = 1; c <= columns; c++) printf "\t%s", name[c] > centres
    for (k = 1; k <= clusters; k++) {
        printf "\n%d\t%d", k, size[k] > centres
        for (c = 1; c <= columns; c++) printf "\t%d", centre[k, c] > centres
    }
    printf "\n" > centres
}
