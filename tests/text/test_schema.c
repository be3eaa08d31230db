/* JSON schemas as grammars: texts that must and must not fit; errors that name the keyword; random sentences of each
 * grammar read back by another JSON parser and checked against the schema by a small validator of the test. */
#include "vocab_fixture.h"

#include "base/clock.h"
#include "text/grammar.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const td_schema_options any_order = {.strict = false}, fixed = {.fixed_order = true}, strict = {.strict = true};

static td_grammar *compile(const char *schema, const td_schema_options *o) {
    td_grammar *g = NULL;
    td_error err = {0};
    if (td_grammar_compile_schema(&g, fixture_vocab(), schema, strlen(schema), o, &err))
        fail_msg("%s\n%s", err.text, schema);
    return g;
}

static bool fits(td_grammar *g, const char *text) {
    td_tokens t = {0};
    td_grammar_state *s = NULL;
    assert_int_equal(td_grammar_state_create(&s, g, NULL), TD_OK);
    assert_int_equal(td_vocab_tokenize(fixture_vocab(), text, strlen(text), TD_SPECIAL_NONE, false, &t, NULL), TD_OK);
    bool fit = true;
    for (size_t i = 0; i < t.n && fit; i++) fit = td_grammar_accept(s, t.ids[i], NULL) == TD_OK;
    fit = fit && td_grammar_complete(s);
    td_grammar_state_destroy(s);
    td_tokens_free(&t);
    return fit;
}

typedef struct sample {
    const char *schema, *yes[8], *no[9];
} sample;

static const sample samples[] = {
    {"{\"type\":\"object\"}",
     {"{}", "{\"a\":1}", "{ \"a\": [1, {\"b\": null}] }", "{\n  \"a\": \"x\"\n}"},
     {"[]", "{a:1}", "{\"a\":1,}", "{\"a\":01}", "{\"a\":\"\n\"}"}},
    {"{}", {"1", "\"a\"", "null", "[true,false]", "-0.5e+10"}, {"", "nul", "+1", "1.", ".5", "'a'", "[,]"}},
    {"true", {"1", "{}"}, {"x"}},
    {"{\"type\":\"string\"}",
     {"\"\"", "\"\\u00e9\\n\\\"\\\\ \xE4\xB8\xAD\"", "\"\\ud83e\\udd99\""},
     {"\"\\ud83e\"", "\"\\x41\"", "\"a", "\"\t\"", "\"\\u12\""}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":4}",
     {"\"ab\"", "\"\xE4\xB8\xAD\xE4\xB8\xAD\"", "\"\\n\\n\\n\\n\""},
     {"\"a\"", "\"abcde\"", "\"\\n\""}},
    {"{\"type\":\"integer\"}", {"0", "-1", "1234567890123456"}, {"01", "1.0", "--1", "12345678901234567", "\"1\""}},
    {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":137}",
     {"5", "9", "10", "99", "100", "137"},
     {"4", "0", "138", "200", "1000", "-5", "05"}},
    {"{\"type\":\"integer\",\"minimum\":-12,\"maximum\":3}",
     {"-12", "-9", "-1", "0", "3"},
     {"-13", "-20", "4", "-0", "-100"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":0}", {"1", "10", "999999"}, {"0", "-1"}},
    {"{\"type\":\"integer\",\"exclusiveMaximum\":10.5}", {"10", "-999", "0"}, {"11", "99"}},
    {"{\"type\":\"integer\",\"minimum\":2,\"exclusiveMinimum\":true}", {"3"}, {"2", "1"}},
    {"{\"type\":\"number\"}", {"0", "-1.5", "2e10", "3.25E-7"}, {"1.", "e5", "0x1", "1e", "NaN", "Infinity"}},
    {"{\"type\":\"boolean\"}", {"true", "false"}, {"True", "null", "1"}},
    {"{\"type\":[\"string\",\"null\"]}", {"\"x\"", "null"}, {"1", "true"}},
    {"{\"enum\":[\"a\",1,null,{\"b\":[1,2]}]}", {"\"a\"", "1", "null", "{\"b\":[1,2]}"}, {"\"b\"", "2", "{}"}},
    {"{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
    {"{\"const\":\"x\\\"y\"}", {"\"x\\\"y\""}, {"\"x\"", "x"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", {"[]", "[1]", "[1, 2,3]"}, {"[\"a\"]", "[1,]", "[,1]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":2,\"maxItems\":3}",
     {"[true,false]", "[true, true, true]"},
     {"[]", "[true]", "[true,true,true,true]"}},
    {"{\"type\":\"array\",\"maxItems\":0}", {"[]"}, {"[1]"}},
    {"{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}",
     {"[1,\"a\"]"},
     {"[1]", "[\"a\",1]", "[1,\"a\",2]"}},
    {"{\"type\":\"array\",\"items\":[{\"type\":\"integer\"}],\"additionalItems\":{\"type\":\"null\"},\"maxItems\":2}",
     {"[1]", "[1,null]"},
     {"[]", "[1,2]", "[1,null,null]"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},\"required\":["
     "\"a\"]}",
     {"{\"a\":1}", "{\"a\":1,\"b\":\"x\"}", "{\"b\":\"x\",\"a\":1}", "{ \"a\": 1 }"},
     {"{}", "{\"b\":\"x\"}", "{\"a\":1,\"a\":2}", "{\"a\":\"x\"}", "{\"a\":1,\"c\":2}", "{\"a\":1,}",
      "{\"a\":1 \"b\":\"x\"}"}},
    {"{\"properties\":{\"a\":{},\"b\":{}}}",
     {"{}", "{\"a\":1}", "{\"b\":2,\"a\":1}"},
     {"{\"c\":1}", "{\"b\":1,\"b\":1}", "[]"}},
    {"{\"properties\":{\"ab\":{\"type\":\"integer\"},\"a\":{\"type\":\"integer\"}},\"additionalProperties\":{\"type\":"
     "\"string\"}}",
     {"{\"a\":1,\"x\":\"y\"}", "{\"abc\":\"y\",\"b\":\"z\"}", "{\"x\":\"1\",\"ab\":3}"},
     {"{\"a\":\"x\"}", "{\"ab\":\"x\"}", "{\"x\":1}", "{\"a\":1,\"a\":\"x\"}"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{}", "{\"any\":1,\"\\u00e9\":2}"},
     {"{\"a\":\"x\"}"}},
    {"{\"type\":\"object\",\"additionalProperties\":false}", {"{}", "{ }"}, {"{\"a\":1}"}},
    {"{\"type\":\"object\",\"required\":[\"k\"]}", {"{\"k\":1}", "{\"x\":2,\"k\":[]}"}, {"{}", "{\"x\":1}"}},
    {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", {"12", "\"a\""}, {"\"ab\"", "null"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"}},\"anyOf\":[{"
     "\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
     {"{\"a\":1}", "{\"b\":1}", "{\"b\":1,\"a\":2}"},
     {"{}", "{\"c\":1}"}},
    {"{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}}},{\"properties\":{\"a\":{\"type\":"
     "\"integer\",\"minimum\":3},\"b\":{\"const\":1}},\"required\":[\"a\",\"b\"]}]}",
     {"{\"a\":3,\"b\":1}", "{\"b\":1,\"a\":40}"},
     {"{\"a\":2,\"b\":1}", "{\"a\":3}", "{\"a\":3.5,\"b\":1}"}},
    {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$"
     "ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"next\":null,\"v\":2}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {"{\"properties\":{\"a~b/c "
     "d\":{\"type\":\"integer\"},\"y\":{\"$ref\":\"#/properties/a~0b~1c%20d\"}},\"required\":[\"y\"]}",
     {"{\"y\":1}"},
     {"{\"y\":\"a\"}"}},
    {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", {"[]", "[[],[[]]]"}, {"[1]", "[[]"}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2026-11-20\""},
     {"\"2026-13-20\"", "\"2026-11-40\"", "\"26-1-1\"", "\"x\""}},
    {"{\"type\":\"string\",\"format\":\"time\"}",
     {"\"23:59:59Z\"", "\"00:00:00.5+02:00\""},
     {"\"24:00:00Z\"", "\"12:60:00Z\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}", {"\"2026-11-20T18:00:00Z\""}, {"\"2026-11-20\""}},
    {"{\"format\":\"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567\"", "\"123e4567e89b12d3a456426614174000\""}},
    {"{\"type\":\"string\",\"format\":\"email\"}", {"\"a@b.c\"", "\"anything\""}, {"1"}},
    {"{\"type\":\"string\",\"pattern\":\"^[a-z]{2,3}-\\\\d+$\"}",
     {"\"ab-1\"", "\"abc-123\""},
     {"\"a-1\"", "\"ab-\"", "\"ab-1x\"", "\"xab-1\"\""}},
    {"{\"pattern\":\"^(foo|ba[rz])?\\\\.\\\\w*$\"}",
     {"\".\"", "\"foo.x_1\"", "\"baz.\""},
     {"\"fo.\"", "\"foo\"", "\"baq.\""}},
    {"{\"pattern\":\"^a|b$\"}", {"\"axyz\"", "\"xyzb\"", "\"a\""}, {"\"xax\"", "\"bx\""}},
    {"{\"pattern\":\"bc\"}", {"\"bc\"", "\"abcd\""}, {"\"b c\""}},
    {"{\"pattern\":\"^[\\\"\\\\\\\\\\\\t]+$\"}", {"\"\\\"\\\\\\t\""}, {"\"\"\"", "\"a\""}},
    {"{\"pattern\":\"^[^a-y]$\"}", {"\"z\"", "\"\\n\"", "\"\xC3\xA9\"", "\"\\\"\""}, {"\"b\"", "\"\""}},
    {"{\"pattern\":\"^(?:ab){2}.?$\"}", {"\"abab\"", "\"ababx\""}, {"\"ab\"", "\"ababxx\""}},
    {"{\"type\":\"object\",\"properties\":{\"\xC3\xA9\":{\"type\":\"integer\"}},\"additionalProperties\":true}",
     {"{\"\xC3\xA9\":1,\"b\":2}"},
     {"{\"\xC3\xA9\":\"x\"}"}},
    {"{\"type\":\"integer\",\"nullable\":true}", {"1", "null"}, {"\"a\""}},
    {"{\"type\":\"object\",\"properties\":{\"a\":false,\"b\":{}}}", {"{\"b\":1}"}, {"{\"a\":1}"}},
};
enum { N_SAMPLES = sizeof samples / sizeof *samples };

static void test_samples(void **state) {
    (void)state;
    for (int i = 0; i < N_SAMPLES; i++) {
        td_grammar *g = compile(samples[i].schema, &any_order);
        for (int k = 0; k < 8 && samples[i].yes[k]; k++)
            if (!fits(g, samples[i].yes[k])) fail_msg("%s\nrefuses %s", samples[i].schema, samples[i].yes[k]);
        for (int k = 0; k < 9 && samples[i].no[k]; k++)
            if (fits(g, samples[i].no[k])) fail_msg("%s\nallows %s", samples[i].schema, samples[i].no[k]);
        td_grammar_unref(g);
    }
}

static void test_fixed_order(void **state) {
    (void)state;
    td_grammar *g = compile(
        "{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"},\"c\":{\"type\":\"integer\"}},"
        "\"required\":[\"b\"],\"additionalProperties\":{\"type\":\"null\"}}",
        &fixed);
    assert_true(fits(g, "{\"b\":1}"));
    assert_true(fits(g, "{\"a\":1,\"b\":1,\"c\":1}"));
    assert_true(fits(g, "{\"b\":1,\"c\":1,\"x\":null,\"y\":null}"));
    assert_false(fits(g, "{\"b\":1,\"a\":1}"));
    assert_false(fits(g, "{\"a\":1}"));
    assert_false(fits(g, "{\"a\":1,\"c\":1}"));
    td_grammar_unref(g);
    td_buf many = {0}; /* more than a set can hold: in order */
    td_buf_add_str(&many, "{\"properties\":{");
    for (int i = 0; i < 300; i++) td_buf_printf(&many, "%s\"p%d\":{\"type\":\"integer\"}", i ? "," : "", i);
    td_buf_add_str(&many, "},\"required\":[\"p299\"]}");
    g = compile(many.data, &any_order);
    assert_true(fits(g, "{\"p7\":1,\"p100\":2,\"p299\":3}"));
    assert_true(fits(g, "{\"p299\":3}"));
    assert_false(fits(g, "{\"p7\":1}"));
    assert_false(fits(g, "{\"p100\":1,\"p7\":1,\"p299\":3}"));
    td_grammar_unref(g);
    td_buf_free(&many);
}

static void refuse(const char *schema, const td_schema_options *o, const char *part) {
    td_grammar *g = NULL;
    td_error err = {0};
    td_status st = td_grammar_compile_schema(&g, fixture_vocab(), schema, strlen(schema), o, &err);
    if (st == TD_OK) fail_msg("accepted: %s", schema);
    assert_null(g);
    assert_int_equal(td_status_http(st), 400);
    if (!strstr(err.text, part)) fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const unsupported[] = {
        "not",        "if",           "contains", "patternProperties", "propertyNames", "dependentRequired",
        "multipleOf", "minProperties"};
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        char schema[200];
        snprintf(schema, sizeof schema, "{\"type\":\"object\",\"%s\":{}}", unsupported[i]);
        refuse(schema, &strict, unsupported[i]);
        td_grammar_unref(compile(schema, &any_order));
    }
    refuse("{\"type\":\"array\",\"uniqueItems\":true}", &strict, "uniqueItems");
    refuse("{\"type\":\"number\",\"minimum\":1}", &strict, "minimum");
    refuse("{\"$ref\":\"https://example.org/s.json\"}", &any_order, "$ref");
    refuse("{\"$ref\":\"#/nothing\"}", &any_order, "$ref");
    refuse("{\"$ref\":\"#\"}", &any_order, "left-recursive");
    refuse("{\"allOf\":[{\"$ref\":\"#\"}]}", &any_order, "");
    refuse("{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/a\"}",
           &any_order, "left-recursive");
    refuse("false", &any_order, "false");
    refuse("7", &any_order, "expected a schema");
    refuse("{\"type\":\"text\"}", &any_order, "type");
    refuse("{\"type\":[]}", &any_order, "type");
    refuse("{\"enum\":[]}", &any_order, "enum");
    refuse("{\"type\":\"string\",\"enum\":[1]}", &any_order, "enum");
    refuse("{\"type\":\"string\",\"const\":1}", &any_order, "const");
    refuse("{\"anyOf\":[]}", &any_order, "anyOf");
    refuse("{\"type\":\"string\",\"anyOf\":[{\"type\":\"integer\"}]}", &any_order, "anyOf");
    refuse("{\"type\":\"string\",\"minLength\":-1}", &any_order, "minLength");
    refuse("{\"type\":\"string\",\"minLength\":5,\"maxLength\":4}", &any_order, "maxLength");
    refuse("{\"type\":\"string\",\"maxLength\":99999999}", &any_order, "maxLength");
    refuse("{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", &any_order, "no integer");
    refuse("{\"type\":\"integer\",\"minimum\":\"x\"}", &any_order, "minimum");
    refuse("{\"type\":\"array\",\"items\":false,\"minItems\":1}", &any_order, "items");
    refuse("{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", &any_order, "required");
    refuse("{\"type\":\"object\",\"properties\":[]}", &any_order, "properties");
    refuse("{\"allOf\":[{\"pattern\":\"^a$\"},{\"pattern\":\"^b$\"}]}", &any_order, "pattern");
    static const char *const patterns[] = {"^(a$",    "^a)$",     "^[a$",    "^a{2$",    "^*a$",  "^\\\\1$",
                                           "^(?=a)$", "^a\\\\b$", "^[z-a]$", "^a{3,2}$", "^a**$", "a^b"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char schema[100];
        snprintf(schema, sizeof schema, "{\"pattern\":\"%s\"}", patterns[i]);
        refuse(schema, &any_order, "pattern");
    }
    refuse("{\"type\":", &any_order, "JSON schema");
    td_buf deep = {0};
    for (int i = 0; i < 120; i++) td_buf_add_str(&deep, "{\"items\":");
    for (int i = 0; i < 120; i++) td_buf_add_str(&deep, i ? "}" : "{}}");
    td_error err = {0};
    td_grammar *g = NULL;
    (void)td_grammar_compile_schema(&g, fixture_vocab(), deep.data, deep.n_bytes, NULL, &err);
    td_grammar_unref(g);
    td_buf_free(&deep);
}

/* ---- random sentences -------------------------------------------------------------------------------------------- */

/* The subset of validation that the samples need, written against jansson's values. */
static bool valid(json_t *root, json_t *s, json_t *v);
static int parts; /* inside of allOf and anyOf a part does not close the object */

static bool valid_type(json_t *type, json_t *v) {
    const char *t = json_string_value(type);
    size_t i;
    json_t *one;
    if (json_is_array(type)) {
        json_array_foreach(type, i, one) if (valid_type(one, v)) return true;
        return false;
    }
    return !t || (!strcmp(t, "object") && json_is_object(v)) || (!strcmp(t, "array") && json_is_array(v)) ||
           (!strcmp(t, "string") && json_is_string(v)) || (!strcmp(t, "integer") && json_is_integer(v)) ||
           (!strcmp(t, "number") && json_is_number(v)) || (!strcmp(t, "boolean") && json_is_boolean(v)) ||
           (!strcmp(t, "null") && json_is_null(v));
}

static size_t characters(json_t *v) {
    size_t n = 0;
    for (const char *p = json_string_value(v); *p; p++) n += ((unsigned char)*p & 0xC0) != 0x80;
    return n;
}

static bool valid_object(json_t *root, json_t *s, json_t *v) {
    json_t *properties = json_object_get(s, "properties"), *more = json_object_get(s, "additionalProperties"), *value,
           *name;
    const char *key;
    size_t i;
    json_array_foreach(json_object_get(s, "required"), i,
                       name) if (!json_object_get(v, json_string_value(name))) return false;
    json_object_foreach(v, key, value) {
        json_t *of = json_object_get(properties, key);
        if (of && !valid(root, of, value)) return false;
        if (!of && !parts && properties && json_object_size(properties) && !more) return false;
        if (!of && more && !valid(root, more, value)) return false;
    }
    return true;
}

static bool valid(json_t *root, json_t *s, json_t *v) {
    json_t *k, *x;
    size_t i;
    if (!json_is_object(s)) return json_is_true(s);
    if (json_is_true(json_object_get(s, "nullable")) && json_is_null(v)) return true;
    if ((k = json_object_get(s, "$ref"))) {
        const char *r = json_string_value(k);
        return valid(root,
                     !strcmp(r, "#")      ? root
                     : strstr(r, "$defs") ? json_object_get(json_object_get(root, "$defs"), "n")
                                          : json_object_get(json_object_get(root, "properties"), "a~b/c d"),
                     v);
    }
    if ((k = json_object_get(s, "const")) && !json_equal(k, v)) return false;
    if ((k = json_object_get(s, "type")) && !valid_type(k, v)) return false;
    parts++;
    bool any = !(k = json_object_get(s, "anyOf"));
    json_array_foreach(k, i, x) any |= valid(root, x, v);
    json_array_foreach(json_object_get(s, "allOf"), i, x) any &= valid(root, x, v);
    parts--;
    if ((k = json_object_get(s, "enum"))) {
        bool found = false;
        json_array_foreach(k, i, x) found |= json_equal(x, v);
        any &= found;
    }
    if (json_is_number(v)) {
        double d = json_number_value(v);
        bool exclusive = json_is_true(json_object_get(s, "exclusiveMinimum"));
        if (json_is_number(k = json_object_get(s, "minimum")))
            any &= exclusive ? d > json_number_value(k) : d >= json_number_value(k);
        if (json_is_number(k = json_object_get(s, "maximum"))) any &= d <= json_number_value(k);
        if (json_is_number(k = json_object_get(s, "exclusiveMinimum"))) any &= d > json_number_value(k);
        if (json_is_number(k = json_object_get(s, "exclusiveMaximum"))) any &= d < json_number_value(k);
    }
    if (json_is_string(v)) {
        if ((k = json_object_get(s, "minLength"))) any &= (json_int_t)characters(v) >= json_integer_value(k);
        if ((k = json_object_get(s, "maxLength"))) any &= (json_int_t)characters(v) <= json_integer_value(k);
    }
    if (json_is_array(v)) {
        if ((k = json_object_get(s, "minItems"))) any &= (json_int_t)json_array_size(v) >= json_integer_value(k);
        if ((k = json_object_get(s, "maxItems"))) any &= (json_int_t)json_array_size(v) <= json_integer_value(k);
        if (json_is_object(k = json_object_get(s, "items"))) json_array_foreach(v, i, x) any &= valid(root, k, x);
    }
    return any && (!json_is_object(v) || valid_object(root, s, v));
}

/* Random allowed tokens, closing ones preferred as the text grows; true when it became whole. */
static bool generate(td_grammar *g, uint64_t *rng, td_buf *text) {
    static uint64_t bits[262144 / 64];
    static const char closers[] = "\"}]0123456789elsrn:,abcxz.-T\\";
    const td_vocab *v = fixture_vocab();
    td_grammar_state *s = NULL;
    assert_int_equal(td_grammar_state_create(&s, g, NULL), TD_OK);
    bool whole = false;
    for (int step = 0; step < 120 && !whole; step++) {
        if (td_grammar_complete(s) && (step > 20 || fixture_random(rng) % 3 == 0 || td_grammar_finished(s))) {
            whole = true;
            break;
        }
        uint32_t id = TD_TOKEN_NONE;
        if (step > 12 || fixture_random(rng) % 3 == 0) {
            size_t from = step % 2 ? 0 : (size_t)(fixture_random(rng) % (sizeof closers - 1));
            for (size_t i = 0; i < sizeof closers - 1 && id == TD_TOKEN_NONE; i++) {
                uint32_t one = td_vocab_byte(v, (uint8_t)closers[(i + from) % (sizeof closers - 1)]);
                if (td_grammar_allows(s, one)) id = one;
            }
        }
        if (id == TD_TOKEN_NONE) {
            td_error err = {0};
            if (td_grammar_mask(s, bits, &err))
                fail_msg("dead end after %s: %s", text->data ? text->data : "", err.text);
            id = (uint32_t)(fixture_random(rng) % (step % 2 ? 262144 : 2000));
            for (int k = 0; k < 262144 && (!(bits[id >> 6] >> (id & 63) & 1) || td_vocab_is_end(v, id)); k++)
                id = (id + 1) % 262144;
        }
        td_slice p = td_vocab_piece(v, id, false);
        if (td_grammar_accept(s, id, NULL)) break; /* only an end token was left */
        td_buf_add(text, p.data, p.n_bytes);
    }
    td_grammar_state_destroy(s);
    return whole;
}

static void test_random_sentences(void **state) {
    (void)state;
    uint64_t rng = 77;
    int total = 0;
    for (int i = 0; i < N_SAMPLES; i++) {
        td_grammar *g = compile(samples[i].schema, i % 2 ? &fixed : &any_order);
        json_t *schema = json_loads(samples[i].schema, JSON_DECODE_ANY, NULL);
        int n_whole = 0;
        assert_non_null(schema);
        for (int k = 0; k < 25; k++) {
            td_buf text = {0};
            json_error_t e;
            if (generate(g, &rng, &text)) {
                json_t *v = json_loadb(text.data, text.n_bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
                if (!v) fail_msg("%s\nmade %s\n%s", samples[i].schema, text.data, e.text);
                if (!valid(schema, schema, v)) fail_msg("%s\nmade %s", samples[i].schema, text.data);
                json_decref(v);
                n_whole++;
            }
            td_buf_free(&text);
        }
        json_decref(schema);
        td_grammar_unref(g);
        total += n_whole;
        if (n_whole < 3 && !strstr(samples[i].schema, "pattern")) /* a needle in unanchored text is seldom met */
            fail_msg("%s: only %d sentences", samples[i].schema, n_whole);
    }
    assert_true(total > N_SAMPLES * 12);
}

/* ---- tool calls -------------------------------------------------------------------------------------------------- */

static const td_grammar_tool tools[] = {{{"get_weather", 11},
                                         {"{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},"
                                          "\"days\":{\"type\":\"integer\",\"minimum\":1,"
                                          "\"maximum\":7},\"unit\":{\"enum\":[\"C\",\"F\"]}},\"required\":[\"city\"]}",
                                          0}},
                                        {{"ping", 4}, {"", 0}}};

/* Text in which special tokens are real. */
static bool fits_special(td_grammar *g, const char *text) {
    td_tokens t = {0};
    td_grammar_state *s = NULL;
    assert_int_equal(td_grammar_state_create(&s, g, NULL), TD_OK);
    assert_int_equal(td_vocab_tokenize(fixture_vocab(), text, strlen(text), TD_SPECIAL_ALL, false, &t, NULL), TD_OK);
    bool fit = true;
    for (size_t i = 0; i < t.n && fit; i++) fit = td_grammar_accept(s, t.ids[i], NULL) == TD_OK;
    fit = fit && td_grammar_complete(s);
    td_grammar_state_destroy(s);
    td_tokens_free(&t);
    return fit;
}

#define CALL(x) "<|tool_call>call:" x "<tool_call|>"
#define STR(x)  "<|\"|>" x "<|\"|>"

static td_grammar *compile_tools(td_tool_choice choice, bool parallel, td_thought thought) {
    td_grammar_tool list[2] = {tools[0], tools[1]};
    list[0].schema.n_bytes = strlen(list[0].schema.data);
    td_tools_options o = {.choice = choice, .parallel = parallel, .thought = thought};
    td_grammar *g = NULL;
    td_error err = {0};
    if (td_grammar_compile_tools(&g, fixture_vocab(), list, 2, &o, &err)) fail_msg("%s", err.text);
    return g;
}

static void test_tool_calls(void **state) {
    (void)state;
    static const char *const good[] = {CALL("get_weather{city:" STR("Paris") "}"), CALL("ping{}"),
                                       CALL("get_weather{days:3,city:" STR("a \"b\" \\ {c}\n") ",unit:" STR("F") "}"),
                                       CALL("ping{a:1,b:[" STR("x") ",null,{c:true}]}")};
    static const char *const bad[] = {CALL("get_weather{}"),
                                      CALL("get_weather{city:\"Paris\"}"),
                                      CALL("pong{}"),
                                      CALL("get_weather{city:" STR("P") ",days:9}"),
                                      CALL("get_weather{city:" STR("P") ",x:1}"),
                                      CALL("get_weather{city:" STR("P") ",city:" STR("P") "}"),
                                      CALL("ping"),
                                      "<|tool_call>",
                                      CALL("get_weather{city:" STR("P") ",unit:" STR("K") "}"),
                                      CALL("get_weather{city:" STR("P<turn|>") "}")};
    td_grammar *required = compile_tools(TD_TOOLS_REQUIRED, true, TD_THOUGHT_OPTIONAL);
    td_grammar *automatic = compile_tools(TD_TOOLS_AUTO, true, TD_THOUGHT_NONE);
    for (size_t i = 0; i < 4; i++) {
        char text[400];
        assert_true(fits_special(required, good[i]));
        assert_true(fits_special(automatic, good[i]));
        snprintf(text, sizeof text, "<|channel>thought\nwell {\"x\n<channel|>%s%s", good[i], good[3 - i]);
        assert_true(fits_special(required, text));
        snprintf(text, sizeof text, "Let me see. %s and %s", good[i], good[3 - i]);
        assert_true(fits_special(automatic, text));
        assert_false(fits_special(required, text));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (fits_special(required, bad[i])) fail_msg("allows %s", bad[i]);
        if (fits_special(automatic, bad[i])) fail_msg("allows %s", bad[i]);
    }
    assert_true(fits_special(automatic, "only text"));
    assert_false(fits_special(required, ""));
    td_grammar_unref(required);
    td_grammar_unref(automatic);

    td_grammar *one = compile_tools(TD_TOOLS_AUTO, false, TD_THOUGHT_NONE);
    assert_true(fits_special(one, "text" CALL("ping{}")));
    assert_false(fits_special(one, CALL("ping{}") CALL("ping{}")));
    assert_false(fits_special(one, CALL("ping{}") " text"));
    td_grammar_unref(one);
    td_grammar *none = compile_tools(TD_TOOLS_NONE, true, TD_THOUGHT_NONE);
    assert_true(fits_special(none, "text <|channel>thought\n<channel|>"));
    assert_false(fits_special(none, CALL("ping{}")));
    td_grammar_unref(none);
    td_grammar *open = compile_tools(TD_TOOLS_REQUIRED, false, TD_THOUGHT_OPEN);
    assert_true(fits_special(open, "hm<channel|>" CALL("ping{}")));
    assert_false(fits_special(open, CALL("ping{}")));
    td_grammar_unref(open);

    td_schema_options o = {.thought = TD_THOUGHT_OPTIONAL};
    td_grammar *json = compile("{\"type\":\"integer\"}", &o);
    assert_true(fits_special(json, "<|channel>thought\n12?<channel|>12"));
    assert_true(fits_special(json, "12"));
    assert_false(fits_special(json, "<|channel>thought\n12?"));
    td_grammar_unref(json);

    td_vocab *tiny = fixture_tiny(NULL, 0);
    td_grammar *g = NULL;
    td_error err = {0};
    td_tools_options t = {.choice = TD_TOOLS_AUTO};
    assert_int_equal(td_grammar_compile_tools(&g, tiny, tools, 1, &t, &err), TD_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "<|tool_call>"));
    td_error_clear(&err);
    assert_int_equal(td_grammar_compile_tools(&g, fixture_vocab(), tools, 0, &t, &err), TD_ERR_ARGUMENT);
    td_vocab_destroy(tiny);
}

/* Damaged schemas: a grammar or an error in bounded time. */
static void test_damaged_schemas(void **state) {
    (void)state;
    static const char bytes[] = "{}[]\",:01$#/^*a\\";
    uint64_t rng = 9;
    int64_t start = td_clock_ns();
    for (int i = 0; i < 6000; i++) {
        char text[600];
        size_t n = strlen(samples[i % N_SAMPLES].schema);
        memcpy(text, samples[i % N_SAMPLES].schema, n);
        for (int k = 0; k < 1 + i % 3; k++)
            text[fixture_random(&rng) % n] = bytes[fixture_random(&rng) % (sizeof bytes - 1)];
        td_grammar *g = NULL;
        if (td_grammar_compile_schema(&g, fixture_vocab(), text, n, i % 2 ? &strict : NULL, NULL) == TD_OK)
            td_grammar_unref(g);
    }
    assert_true((double)(td_clock_ns() - start) * 1e-9 < 60);
}

/* Schemas made to explode: an error, soon. */
static void test_explosive_schemas(void **state) {
    (void)state;
    td_buf b = {0};
    td_buf_add_str(&b, "{\"allOf\":[");
    for (int i = 0; i < 20; i++)
        td_buf_printf(&b, "%s{\"anyOf\":[{\"required\":[\"a%d\"]},{\"required\":[\"b%d\"]}]}", i ? "," : "", i, i);
    td_buf_add_str(&b, "]}");
    td_grammar *g = NULL;
    td_error err = {0};
    int64_t start = td_clock_ns();
    assert_int_not_equal(td_grammar_compile_schema(&g, fixture_vocab(), b.data, b.n_bytes, NULL, &err), TD_OK);
    td_buf_clear(&b); /* a large enum is no explosion */
    td_buf_add_str(&b, "{\"enum\":[\"x\"");
    for (int i = 0; i < 4000; i++) td_buf_printf(&b, ",\"value %d\"", i * 7919 % 4000);
    td_buf_add_str(&b, "]}");
    td_error_clear(&err);
    if (td_grammar_compile_schema(&g, fixture_vocab(), b.data, b.n_bytes, NULL, &err)) fail_msg("%s", err.text);
    assert_true(fits(g, "\"value 3999\""));
    assert_false(fits(g, "\"value 4000\""));
    td_grammar_unref(g);
    td_buf_clear(&b);
    td_buf_add_str(&b, "{\"$defs\":{\"d0\":{\"type\":\"integer\"}");
    for (int i = 1; i < 60; i++)
        td_buf_printf(
            &b, ",\"d%d\":{\"type\":\"array\",\"prefixItems\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]}",
            i, i - 1, i - 1);
    td_buf_add_str(&b, "},\"$ref\":\"#/$defs/d59\"}");
    td_error_clear(&err);
    if (td_grammar_compile_schema(&g, fixture_vocab(), b.data, b.n_bytes, NULL, &err)) fail_msg("%s", err.text);
    td_grammar_unref(g); /* shared references stay small */
    assert_true((double)(td_clock_ns() - start) * 1e-9 < 20);
    td_buf_free(&b);
}

static int done(void **state) {
    (void)state;
    fixture_release();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),           cmocka_unit_test(test_fixed_order),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_random_sentences),
        cmocka_unit_test(test_damaged_schemas),   cmocka_unit_test(test_tool_calls),
        cmocka_unit_test(test_explosive_schemas),
    };
    return cmocka_run_group_tests(tests, NULL, done);
}
