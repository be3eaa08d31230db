/* Inside of the request fields: how a member with a shape of its own is read. */
#ifndef TD_SERVER_FIELDS_H
#define TD_SERVER_FIELDS_H

#include "app.h"

typedef struct field_call { /* one member being read */
    server *s;
    const td_json *body;
    td_arena *a;
    request_fields *f;
    const char *name; /* as the request spells it */
    char *param;      /* [64] the name, on failure */
    td_error *err;
} field_call;

typedef td_status field_reader(field_call *c, const td_json *v);

/* TD_ERR_ARGUMENT that names the member. */
td_status field_bad(field_call *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
td_status field_no_memory(field_call *c);

/* fields_shapes.c */
field_reader read_seed, read_logprobs, read_bias, read_stop, read_breakers, read_samplers, read_speculative,
    read_spec_max, read_spec_min, read_spec_p_min, read_stream_options, read_grammar, read_schema, read_response_fields,
    read_lora;

#endif
