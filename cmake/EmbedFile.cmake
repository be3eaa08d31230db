# Puts the page's files together and writes them as a C array: no tool besides CMake is needed.
#   cmake -DDIR=src/server/page -DOUT=page.c -P EmbedFile.cmake
# The page is ASCII (the script says \u2026), so that every byte is a char whatever its sign.
file(READ ${DIR}/index.html html)
file(READ ${DIR}/style.css style)
file(READ ${DIR}/markdown.js markdown)
file(READ ${DIR}/script.js script)
foreach(part style markdown script)
  string(FIND "${html}" "/*${part}*/" at)
  if(at LESS 0)
    message(FATAL_ERROR "index.html has no place for the ${part}: /*${part}*/")
  endif()
  string(REPLACE "/*${part}*/" "${${part}}" html "${html}")
endforeach()
file(WRITE ${OUT}.html "${html}")
file(READ ${OUT}.html bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
if(bytes MATCHES "0x[89a-f]")
  message(FATAL_ERROR "The page holds a byte that is not ASCII")
endif()
file(WRITE ${OUT} "/* Made by cmake/EmbedFile.cmake from src/server/page. */
#include \"page.h\"

const char td_page[] = {
${bytes}
0};
const size_t td_page_bytes = sizeof td_page - 1;
")
