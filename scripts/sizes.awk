# Reports files above 1000 lines, headers above 300, functions above 80. Functions are found by the layout that
# clang-format gives: a line in column 0 that ends in ") {" begins one, "}" in column 0 ends it.
FNR == 1 { finish() }
{ lines = FNR; file = FILENAME }
/^[A-Za-z_].*\) \{$/ || /^ +[^ ].*\) \{$/ && open_head { start = FNR; open_head = 0; name = $0; inside = 1 }
/^[A-Za-z_][^;={]*,$/ { open_head = 1 }
/[;}]$/ { if (!inside) open_head = 0 }
/^}/ {
    if (inside && FNR - start + 1 > 80) wrong(start, "a function of " FNR - start + 1 " lines (80)")
    inside = 0
}
function finish() {
    if (file ~ /\.h$/ && lines > 300) wrong(lines, "a header of " lines " lines (300)")
    else if (lines > 1000) wrong(lines, "a file of " lines " lines (1000)")
    inside = open_head = 0
}
function wrong(line, what) {
    print file ":" line ": " what
    bad = 1
}
END { finish(); exit bad }
