/* Read-only mapping of a whole file. */
#ifndef TD_BASE_MAP_H
#define TD_BASE_MAP_H

#include "status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct td_map {
    const uint8_t *data; /* NULL when n_bytes is 0 */
    size_t n_bytes;
    char *path;
} td_map;

/* Regular files only; the mapping stays valid until td_map_close. */
td_status td_map_open(td_map *m, const char *path, td_error *err);
void td_map_close(td_map *m);
/* Gives the pages of [offset, offset + n) back to the system: their content has been packed elsewhere. */
void td_map_release(const td_map *m, size_t offset, size_t n_bytes);
void td_map_prefetch(const td_map *m, size_t offset, size_t n_bytes);

/* True if both exist and are one file, by whatever names. */
bool td_same_file(const char *a, const char *b);

#endif
