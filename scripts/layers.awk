# Reports includes that go upward. Level of a folder of src/; the public header stands between 3 and 5, but its value
# types (tandem-types.h, tandem-status.h) belong to everyone, and the engine implements it.
BEGIN {
    split("base 0 file 1 text 1 quant 1 kernels 1 model 2 kv 2 convert 3 spec 3 engine 3 server 5 cli 5", list, " ")
    for (i = 1; i in list; i += 2) level[list[i]] = list[i + 1]
}
FNR == 1 {
    n = split(FILENAME, part, "/")
    own = part[2]
    if (!(own in level)) wrong(own " is no known layer")
}
/^#include "/ {
    split($0, quote, "\"")
    path = quote[2]
    gsub(/^(\.\.\/)+/, "", path)
    sub(/^src\//, "", path)
    sub(/^include\//, "", path)
    if (path ~ /^tandem-(types|status)\.h$/) next
    if (path == "tandem.h") {
        if (own != "engine" && level[own] < 5) wrong("includes the public header")
        next
    }
    split(path, to, "/")
    folder = path ~ /\// ? to[1] : own
    if (!(folder in level)) wrong("includes " quote[2] " of no known layer")
    else if (level[folder] > level[own]) wrong("includes " quote[2] ", a higher layer")
    else if (own == "server" && folder !~ /^(server|base|text)$/) wrong("includes " quote[2] "; the server uses tandem.h, base and text")
}
function wrong(what) {
    print FILENAME ":" FNR ": " what
    bad = 1
}
END { exit bad }
