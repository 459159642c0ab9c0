# Counts words and obligations of texts in one stream; \001NAME starts a text.
BEGIN {
    split("the of and to a in or is that for this any you by be as it not with are if on from an such which at will all your no other may have has its", list, " ")
    for (i in list) stop[list[i]] = 1
    split("shall must may", duty, " ")
}

/^\001/ {
    texts++
    name[texts] = substr($0, 2)
    before = ""
    next
}

{
    lines[texts]++
    line = tolower($0)
    gsub(/[^a-z']+/, " ", line)
    n = split(line, word, " ")
    for (i = 1; i <= n; i++) {
        w = word[i]
        gsub(/^'+|'+$/, "", w)
        if (w == "") continue
        total[texts]++
        if (!((texts, w) in seen)) {
            seen[texts, w] = 1
            distinct[texts]++
            spread[w]++
        }
        if (w == "not" && (before == "shall" || before == "must" || before == "may")) {
            # "shall not" is a duty of its own: taken from shall, given to shall_not.
            count[texts, before]--
            count[texts, before "_not"]++
        }
        if (w == "shall" || w == "must" || w == "may") count[texts, w]++
        if (length(w) > 1 && !(w in stop)) all[w]++
        before = w
    }
}

function quoted(text) {
    gsub(/\\/, "\\\\", text)
    gsub(/"/, "\\\"", text)
    return "\"" text "\""
}

function duties(t,    d, out, w) {
    out = ""
    for (d = 1; d <= 3; d++) {
        w = duty[d]
        out = out (d > 1 ? ", " : "") "\"" w "\": " (count[t, w] + 0) ", \"" w "_not\": " (count[t, w "_not"] + 0)
        sum[w] += count[t, w]
        sum[w "_not"] += count[t, w "_not"]
    }
    return out
}

END {
    for (w in all) printf "%s\t%d\t%d\n", w, all[w], spread[w] > words
    # Texts by number of words, longest first, ties by name: texts are few, so a plain selection.
    printf "{\n  \"top\": %d,\n  \"texts\": [\n", top > summary
    for (k = 1; k <= texts; k++) {
        best = 0
        for (t = 1; t <= texts; t++)
            if (!(t in done) && (best == 0 || total[t] > total[best])) best = t
        done[best] = 1
        printf "    {\"name\": %s, \"lines\": %d, \"words\": %d, \"distinct\": %d, \"obligations\": {%s}}%s\n", \
            quoted(name[best]), lines[best], total[best], distinct[best], duties(best), (k < texts ? "," : "") > summary
        all_lines += lines[best]
        all_words += total[best]
    }
    vocabulary = 0
    for (w in spread) vocabulary++
    printf "  ],\n  \"total\": {\"texts\": %d, \"lines\": %d, \"words\": %d, \"distinct\": %d, \"obligations\": {", \
        texts, all_lines, all_words, vocabulary > summary
    for (d = 1; d <= 3; d++)
        printf "%s\"%s\": %d, \"%s_not\": %d", (d > 1 ? ", " : ""), duty[d], sum[duty[d]], duty[d], sum[duty[d] "_not"] > summary
    printf "}}\n}\n" > summary
}
