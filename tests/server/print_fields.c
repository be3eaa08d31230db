/* The table of request fields as JSON, for test_server.py: the walk over limits comes from the table that parses. */
#include "server/app.h"

#include <stdio.h>

int main(void) {
    int n = 0;
    const field_info *table = fields_table(&n);
    printf("[");
    for (int i = 0; i < n; i++)
        printf("%s{\"name\":\"%s\",\"kind\":\"%c\",\"min\":%.17g,\"max\":%.17g,\"clamp\":%s,\"types\":\"%s\"}",
               i ? "," : "", table[i].name, table[i].kind, table[i].min, table[i].max,
               table[i].clamp ? "true" : "false", table[i].types ? table[i].types : "");
    printf("]\n");
    return 0;
}
