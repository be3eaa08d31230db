/* The web page: src/server/page put into the program by cmake/EmbedFile.cmake. */
#ifndef TD_SERVER_PAGE_H
#define TD_SERVER_PAGE_H

#include <stddef.h>

extern const char td_page[]; /* terminated; one HTML file without outside resources */
extern const size_t td_page_bytes;

#endif
