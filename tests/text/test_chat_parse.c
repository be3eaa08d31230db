/* The parser: the specification's outputs, every way of cutting them, every length of them, outputs put together at
 * random, and hand-written ones for each sentence of the rules. */
#include "chat_fixture.h"
#include "vocab_fixture.h"

#include "text/chat_replay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define Q  "<|\"|>"
#define TC "<|tool_call>call:"
#define TE "<tool_call|>"

static const char tools_json[] =
    "[{\"function\":{\"name\":\"find\",\"parameters\":{\"type\":\"object\",\"properties\":{\"q\":{\"type\":\"string\"},"
    "\"limit\":{\"type\":\"integer\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"opts\":{\"type\":"
    "\"object\",\"properties\":{\"deep\":{\"type\":\"boolean\"},\"note\":{\"type\":\"string\"}}},\"ratio\":{\"type\":"
    "\"number\"}}}}},{\"function\":{\"name\":\"stop\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}},"
    "{\"function\":{\"name\":\"write_file\",\"parameters\":{\"type\":\"object\",\"properties\":{\"path\":{\"type\":"
    "\"string\"},\"text\":{\"type\":\"string\"}}}}},{\"function\":{\"name\":\"make-pdf\"}}]";

static td_arena *arena;
static td_chat_tool *tools;
static size_t n_tools;

static int setup(void **state) {
    (void)state;
    const td_json *v = NULL;
    td_chat_tool *raw = NULL;
    size_t n_dropped = 0;
    arena = td_arena_create(0);
    return td_json_parse(&v, arena, tools_json, sizeof tools_json - 1, TD_JSON_REJECT, NULL) ||
           td_chat_tools_read(v, arena, &raw, &n_tools, &n_dropped, NULL) ||
           td_chat_tools_clean(raw, n_tools, arena, &tools, NULL);
}

static int teardown(void **state) {
    (void)state;
    td_arena_destroy(arena);
    return 0;
}

typedef struct how {
    td_chat_start start;
    td_chat_end end;
    td_chat_reasoning_format format;
    bool no_tools, echo;
    size_t cut;      /* 0: in one piece; else the size of the first piece */
    size_t piece;    /* 0: the rest in one piece; else pieces of this size */
    uint64_t random; /* not 0: pieces of random sizes */
} how;

/* The order in which things came is part of what is checked: every event's text must fit to the state of its call. */
typedef struct watcher {
    td_chat_reply reply;
    uint32_t n_begun, n_ended;
    bool bad;
} watcher;

static bool watch(void *context, const td_chat_event *e) {
    watcher *w = context;
    bool open = w->n_begun > w->n_ended;
    switch (e->kind) {
    case TD_CHAT_CALL_BEGIN:
        w->bad |= open || e->call != w->n_begun++;
        break;
    case TD_CHAT_CALL_ARGUMENTS:
        w->bad |= !open || e->call != w->n_begun - 1;
        break;
    case TD_CHAT_CALL_END:
        w->bad |= !open || e->call != w->n_ended++;
        break;
    default:
        w->bad |= open;
        break;
    }
    if (!td_utf8_valid(e->text.data, e->text.n_bytes)) w->bad = true;
    return td_chat_reply_add(&w->reply, e);
}

static td_chat_reply parse(const char *text, size_t n_bytes, const how *h) {
    watcher w = {0};
    td_chat_parse_options o = {.tools = h->no_tools ? NULL : tools,
                               .n_tools = h->no_tools ? 0 : n_tools,
                               .reasoning = h->format,
                               .start = &h->start,
                               .echo_prefill = h->echo,
                               .sink = watch,
                               .context = &w};
    td_chat_parser *p = NULL;
    uint64_t random = h->random;
    assert_int_equal(td_chat_parser_create(&p, &o, NULL), TD_OK);
    for (size_t at = 0, n = h->cut ? h->cut : h->piece; at < n_bytes; at += n, n = h->piece) {
        if (h->random) n = 1 + fixture_random(&random) % 7;
        if (!n || n > n_bytes - at) n = n_bytes - at;
        assert_true(td_chat_parser_text(p, text + at, n));
    }
    assert_true(td_chat_parser_finish(p, h->end));
    assert_false(w.bad);
    td_chat_parser_destroy(p);
    return w.reply;
}

/* "reasoning|content|name(arguments)…", an unfinished call with "..." in place of the closing parenthesis. */
static void show(const td_chat_reply *r, td_buf *out) {
    td_chat_reply_reasoning(r, out);
    td_buf_add_char(out, '|');
    td_chat_reply_content(r, out);
    td_buf_add_char(out, '|');
    for (size_t i = 0; i < r->n_blocks; i++) {
        const td_chat_block *b = &r->blocks[i];
        if (b->kind != TD_CHAT_BLOCK_CALL) continue;
        td_buf_add(out, b->name.data, b->name.n_bytes);
        td_buf_add_char(out, '(');
        td_buf_add(out, b->text.data, b->text.n_bytes);
        td_buf_add_str(out, b->complete ? ")" : "...");
    }
}

static td_buf shown(const char *text, size_t n_bytes, const how *h) {
    td_buf out = {0};
    td_chat_reply r = parse(text, n_bytes, h);
    show(&r, &out);
    td_chat_reply_free(&r);
    return out;
}

/* Whole, and cut at every place. */
static void check_with(const char *text, const char *want, how h) {
    size_t n = strlen(text);
    for (h.cut = 0; h.cut <= n; h.cut++) {
        td_buf got = shown(text, n, &h);
        if (strcmp(got.data, want) != 0) fail_msg("%s\n cut at %zu\n want %s\n got  %s", text, h.cut, want, got.data);
        td_buf_free(&got);
    }
    h.cut = 0;
    h.piece = 1;
    td_buf got = shown(text, n, &h);
    assert_string_equal(got.data, want);
    td_buf_free(&got);
}

static void check(const char *text, const char *want) {
    check_with(text, want, (how){0});
}

/* ---- the specification's cases ----------------------------------------------------------------------------------- */

static void compare(const td_json *c, const how *h) {
    const td_json *output = td_json_get(c, "output"), *expect = td_json_get(c, "expect");
    const td_json *calls = td_json_get(expect, "tool_calls"), *call = calls->first;
    td_slice reasoning = td_json_get(expect, "reasoning_content")->text, content = td_json_get(expect, "content")->text;
    td_chat_reply r = parse(output->text.data, output->text.n_bytes, h);
    td_buf text = {0};
    assert_true(td_chat_reply_reasoning(&r, &text) && text.n_bytes == reasoning.n_bytes);
    if (text.n_bytes) assert_memory_equal(text.data, reasoning.data, text.n_bytes);
    td_buf_clear(&text);
    assert_true(td_chat_reply_content(&r, &text) && text.n_bytes == content.n_bytes);
    if (text.n_bytes) assert_memory_equal(text.data, content.data, text.n_bytes);
    assert_int_equal(r.n_calls, calls->n);
    for (size_t i = 0; i < r.n_blocks; i++) {
        const td_json *args = NULL;
        td_chat_block *b = &r.blocks[i];
        if (b->kind != TD_CHAT_BLOCK_CALL) continue;
        assert_true(td_json_is_string(td_json_get(call, "name"), b->name.data));
        const char *copy = td_arena_strndup(arena, b->text.data, b->text.n_bytes);
        assert_int_equal(td_json_parse(&args, arena, copy, b->text.n_bytes, TD_JSON_REJECT, NULL), TD_OK);
        assert_true(td_json_equal(args, td_json_get(call, "arguments")));
        call = call->next;
    }
    td_buf_free(&text);
    td_chat_reply_free(&r);
}

static void test_cases(void **state) {
    (void)state;
    size_t n = 0;
    int n_cases = 0;
    char *bytes = fixture_read("tests/text/data/chat-parse-cases.json", &n);
    const td_json *v = NULL;
    assert_int_equal(td_json_parse(&v, arena, bytes, n, TD_JSON_REJECT, NULL), TD_OK);
    for (const td_json *c = td_json_get(v, "cases")->first; c; c = c->next, n_cases++) {
        const td_json *output = td_json_get(c, "output"), *prefix = td_json_get(c, "prefix");
        how h = {0};
        h.start.after_thought = td_json_is_string(prefix, "<|channel>thought\n<channel|>");
        h.start.in_thought = td_json_is_string(prefix, "<|channel>thought\n");
        assert_true(h.start.after_thought || h.start.in_thought || prefix->text.n_bytes == 0);
        for (h.cut = 0; h.cut < output->text.n_bytes; h.cut++) compare(c, &h);
        h.cut = 0;
        for (h.piece = 1; h.piece < 9; h.piece++) compare(c, &h);
        for (h.random = 1; h.random < 20; h.random++) compare(c, &h);
        h.random = h.piece = 0;
        for (size_t k = 0; k <= output->text.n_bytes; k++) /* every prefix means something, however it ended */
            for (int end = 0; end < 2; end++) {
                how part = h;
                part.end = (td_chat_end)end;
                td_chat_reply r = parse(output->text.data, k, &part);
                td_chat_reply_free(&r);
            }
    }
    assert_int_equal(n_cases, 41);
    free(bytes);
}

/* ---- text and thoughts ------------------------------------------------------------------------------------------- */

static void test_thoughts(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"", "||"},
        {" hi ", "| hi |"},
        {"a<b <|not a marker> <", "|a<b <|not a marker> <|"},
        {"<|channel>thought\n \n<channel|>x", "|x|"},
        {"<|channel>thought\n\n a\n\n<channel|>\n\nx", "\n a\n|x|"},
        {"<|channel>thought\na\n<channel|>x<|channel>thought\nb\n<channel|> y", "a\n\nb|xy|"},
        {"<|channel>analysis\nhidden<channel|>x", "hidden|x|"},
        {"<|channel>thoughtful\nx<channel|>y", "ful\nx|y|"},
        {"<|channel>I think so.<channel|>x", "I think so.|x|"},
        {"<|channel>thought\na<|channel>b<|channel>thought\nc<channel|>x", "abc|x|"},
        {"<|channel>thought\na\n", "a\n||"},
        {"<|channel>thou", "||"},
        {"thought", "|thought|"},
        {"thoughtful", "|thoughtful|"},
        {"thought\n", "||"},
        {"ok thought\n", "|ok thought\n|"},
        {"x<turn|>y", "|x|"},
        {"x<|tool_response>y", "|x|"},
        {"x<|turn>model\ny", "|x|"},
        {"<|channel>thought\nx<turn|>y", "x||"},
        {"x<|tool", "|x<|tool|"},
        {"say " Q "hi" Q, "|say " Q "hi" Q "|"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check(rows[i][0], rows[i][1]);
}

static void test_reasoning_formats(void **state) {
    (void)state;
    const char *text = "<|channel>thought\na\n<channel|>b" TC "stop{}" TE "c";
    check_with(text, "|<|channel>thought\na\n<channel|>bc|stop({})", (how){.format = TD_CHAT_REASONING_NONE});
    check_with(text, "a|<|channel>thought\na\n<channel|>bc|stop({})", (how){.format = TD_CHAT_REASONING_BOTH});
}

static void test_prefilled(void **state) {
    (void)state;
    how h = {.start = {.content = {"The ", 4}, .after_thought = true}};
    check_with(" end", "| end|", h);
    h.echo = true;
    check_with("thought\nend", "|The thought\nend|", h);
    h = (how){.start = {.in_thought = true, .reasoning = {"I ", 2}}, .echo = true};
    check_with("see\n<channel|>x", "I see|x|", h);
    h.echo = false;
    check_with(" see\n<channel|>x", " see|x|", h);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static void test_tolerant_values(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"{q:" Q "a\"b\\c\n\x01" Q "}", "{\"q\":\"a\\\"b\\\\c\\n\\u0001\"}"},
        {"{q:null,opts:{note:NULL,deep:FALSE},limit:none}",
         "{\"q\":null,\"opts\":{\"note\":null,\"deep\":false},\"limit\":null}"},
        {"{limit:1.50E+3,ratio:-0}", "{\"limit\":1.50E+3,\"ratio\":-0}"},
        {"{limit:01,ratio:+5,x:.5,y:1.,z:0x1F}",
         "{\"limit\":\"01\",\"ratio\":\"+5\",\"x\":\".5\",\"y\":\"1.\",\"z\":\"0x1F\"}"},
        {"{limit:\"3\",q:true}", "{\"limit\":\"3\",\"q\":\"true\"}"},
        {"{tags:[1,true,'x',\"y\",bare word]}", "{\"tags\":[\"1\",\"true\",\"x\",\"y\",\"bare word\"]}"},
        {"{q:it's fine,limit:1}", "{\"q\":\"it's fine\",\"limit\":1}"},
        {"{q:f{a,b}[c,d] e,limit:1}", "{\"q\":\"f{a,b}[c,d] e\",\"limit\":1}"},
        {"{q:\"\\u00e9\\ud83d\\ude00\\ud83d\\n\\d\\/\"}", "{\"q\":\"\xC3\xA9\xF0\x9F\x98\x80\xEF\xBF\xBD\\n\\\\d/\"}"},
        {"{tags:[" Q "a" Q ",],q:" Q "b" Q ",}", "{\"tags\":[\"a\"],\"q\":\"b\"}"},
        {"{tags:[" Q "a" Q "}", "{\"tags\":[\"a\"]}"},
        {"{tags:[" Q "a" Q, "{\"tags\":[\"a\"]}"},
        {"{opts:{deep:true,q:" Q "x" Q "}", "{\"opts\":{\"deep\":true,\"q\":\"x\"}}"},
        {"{q:,limit:2}", "{\"q\":null,\"limit\":2}"},
        {"{q:", "{\"q\":null}"},
        {"{q", "{\"q\":null}"},
        {"{", "{}"},
        {"{'q':'a','limit':2}", "{\"q\":\"a\",\"limit\":2}"},
        {"{q:" Q "a" Q " junk,limit:2}", "{\"q\":\"a\",\"limit\":2}"},
        {"{tags:[" Q "a" Q Q "b" Q "]}", "{\"tags\":[\"a\",\"b\"]}"},
        {"{q:" Q "a" Q Q "limit" Q ":2}", "{\"q\":\"a\",\"limit\":2}"},
        {"(q='a', limit=2)", "{\"q\":\"a\",\"limit\":2}"},
        {"(q=f(x, y), limit=2)", "{\"q\":\"f(x, y)\",\"limit\":2}"},
        {"()", "{}"},
        {"{unknown:7,other:{x:[1,{y:a}]}}", "{\"unknown\":7,\"other\":{\"x\":[1,{\"y\":\"a\"}]}}"},
        {"{q:" Q "\xC3\x28" Q "}", "{\"q\":\"\xEF\xBF\xBD(\"}"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[512], want[512];
        const td_json *v = NULL;
        snprintf(text, sizeof text, TC "find%s" TE, rows[i][0]);
        snprintf(want, sizeof want, "||find(%s)", rows[i][1]);
        if (strcmp(rows[i][0], "{q") == 0) snprintf(want, sizeof want, "||find({\"q\":\"q\"})");
        check(text, want);
        assert_int_equal(td_json_parse(&v, arena, rows[i][1], strlen(rows[i][1]), TD_JSON_REJECT, NULL), TD_OK);
    }
}

static void test_calls(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"<|tool_call>  call:  stop  {}  " TE "x", "|x|stop({})"},
        {TC "a.b/stop{}" TE TC "ns:make-pdf{}" TE TC "x:y{}" TE, "||stop({})make-pdf({})x:y({})"},
        {TC "stop{}}})] \n" TE "\n done", "|done|stop({})"},
        {TC "stop", "||stop({})"},
        {TC "stop" TC "stop{}", "||stop({})stop({})"},
        {TC "stop{} and more", "|and more|stop({})"},
        {"<|tool_call>{\"name\":\"find\",\"parameters\":{\"q\":\"x\"}}" TE, "||find({\"q\":\"x\"})"},
        {"<|tool_call>{\"arguments\":\"{\\\"q\\\":1}\",\"name\":\"a:find\"}", "||find({\"q\":1})"},
        {"<|tool_call>{\"name\":\"stop\"}" TE, "||stop({})"},
        {"<|tool_call>{\"function\":{\"name\":\"stop\",\"arguments\":{}}}" TE, "||stop({})"},
        {"<|tool_call>{\"x\":1}" TE "y", "|<|tool_call>{\"x\":1}" TE "y|"},
        {"<|tool_call>" TE "y", "|<|tool_call>" TE "y|"},
        {"a<|tool_call>call: \n" TE, "|a<|tool_call>call: \n" TE "|"},
        {TC "write_file{text:" Q "x<turn|>" TC "y" Q "}" TE, "||write_file({\"text\":\"x<turn|>" TC "y\"})"},
        {TC "write_file{text:\"x" TE "y", "|y|write_file({\"text\":\"x\"})"},
        {TC "find{q:x<turn|>y", "||find({\"q\":\"x\"})"},
        {TC "find{q:" Q "x" Q "}<|channel>thought\nhm<channel|>done", "hm|done|find({\"q\":\"x\"})"},
        {TC "find(" Q "fox" Q ", 3)" TE, "||find({\"q\":\"fox\",\"limit\":3})"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check(rows[i][0], rows[i][1]);
}

static void test_without_tools_calls_are_text(void **state) {
    (void)state;
    const char *text = "a " TC "find{q:" Q "x" TE Q "}" TE " b";
    char want[128];
    snprintf(want, sizeof want, "|%s|", text);
    check_with(text, want, (how){.no_tools = true});
}

/* A length limit invents nothing: what was sent is a prefix of what would have come. */
static void test_cut_by_length(void **state) {
    (void)state;
    how h = {.end = TD_CHAT_END_CUT};
    check_with(TC "find{q:" Q "ab", "||find({\"q\":\"ab...", h);
    check_with(TC "find{q:" Q "ab" Q, "||find({\"q\":\"ab\"...", h);
    check_with(TC "find{limit:12", "||find({\"limit\":...", h);
    check_with(TC "find{q:" Q "a" Q "}", "||find({\"q\":\"a\"})", h);
    check_with("x" TC "fin", "|x" TC "fin|", h);
    check_with("<|tool_call>{\"name\":\"find\",\"arguments\":{\"q\":\"ab", "||find({\"q\":\"ab...", h);
    check_with("<|tool_call>{\"name\":\"fi", "|<|tool_call>{\"name\":\"fi|", h);
    check_with("x<|channe", "|x<|channe|", h);
}

/* Streaming sends a string while it is written. */
static void test_arguments_stream(void **state) {
    (void)state;
    watcher w = {0};
    td_chat_parse_options o = {.tools = tools, .n_tools = n_tools, .sink = watch, .context = &w};
    td_chat_parser *p = NULL;
    static const char *const pieces[][2] = {{TC "write_fi", NULL},
                                            {"le{", "{"},
                                            {"path:", "{\"path\":"},
                                            {Q "a.c" Q ",te", "{\"path\":\"a.c\""},
                                            {"xt:" Q "int x", "{\"path\":\"a.c\",\"text\":\"int x"},
                                            {";\n<", "{\"path\":\"a.c\",\"text\":\"int x;\\n"},
                                            {"|\"|", "{\"path\":\"a.c\",\"text\":\"int x;\\n"},
                                            {"\xC3", "{\"path\":\"a.c\",\"text\":\"int x;\\n"},
                                            {"\xA9" Q, "{\"path\":\"a.c\",\"text\":\"int x;\\n<|\\\"|\xC3\xA9\""},
                                            {"}", "{\"path\":\"a.c\",\"text\":\"int x;\\n<|\\\"|\xC3\xA9\"}"}};
    assert_int_equal(td_chat_parser_create(&p, &o, NULL), TD_OK);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        assert_true(td_chat_parser_text(p, pieces[i][0], strlen(pieces[i][0])));
        if (!pieces[i][1]) {
            assert_int_equal(w.reply.n_blocks, 0);
            continue;
        }
        assert_string_equal(w.reply.blocks[0].name.data, "write_file");
        assert_string_equal(w.reply.blocks[0].text.data, pieces[i][1]);
    }
    assert_true(w.reply.blocks[0].complete && td_chat_parser_in_call(p));
    assert_true(td_chat_parser_finish(p, TD_CHAT_END_CUT) && !w.bad);
    td_chat_parser_destroy(p);
    td_chat_reply_free(&w.reply);
}

/* ---- outputs put together at random ------------------------------------------------------------------------------ */

static size_t assemble(uint64_t *random, char *out, size_t cap) {
    static const char *const pieces[] = {"<|channel>",
                                         "thought",
                                         "\n",
                                         "<channel|>",
                                         "<|tool_call>",
                                         "call:",
                                         "find",
                                         "{",
                                         "}",
                                         "(",
                                         ")",
                                         "[",
                                         "]",
                                         Q,
                                         Q,
                                         ",",
                                         ":",
                                         "=",
                                         "\"",
                                         "'",
                                         "\\",
                                         "\\u00e9",
                                         "q",
                                         "limit",
                                         "12",
                                         "null",
                                         "True",
                                         " ",
                                         TE,
                                         TC "find{",
                                         "opts",
                                         "<|turn>model\n",
                                         "<",
                                         "<|",
                                         "\xC3",
                                         "\xA9",
                                         "text",
                                         "name",
                                         "arguments",
                                         "\"name\":\"find\"",
                                         "\"arguments\":{",
                                         "stop",
                                         "a b",
                                         "\\ud83d",
                                         "tags:["};
    size_t n = 0;
    for (size_t k = 1 + fixture_random(random) % 24; k > 0; k--) {
        const char *s = pieces[fixture_random(random) % (sizeof pieces / sizeof *pieces)];
        size_t len = strlen(s);
        if (n + len > cap) break;
        memcpy(out + n, s, len);
        n += len;
    }
    return n;
}

static void test_random_outputs(void **state) {
    (void)state;
    uint64_t random = 7;
    for (int i = 0; i < 40000; i++) {
        char text[512];
        size_t n = assemble(&random, text, sizeof text);
        how h = {.end = (td_chat_end)(i & 1), .format = (td_chat_reasoning_format)(i / 2 % 3), .no_tools = i % 7 == 0};
        h.start.in_thought = i % 11 == 0;
        td_buf whole = shown(text, n, &h);
        h.random = random;
        td_buf cut = shown(text, n, &h);
        h.random = 0;
        h.piece = 1;
        td_buf bytes = shown(text, n, &h);
        if (strcmp(whole.data, cut.data) != 0 || strcmp(whole.data, bytes.data) != 0)
            fail_msg("%.*s\n whole %s\n cut   %s\n bytes %s", (int)n, text, whole.data, cut.data, bytes.data);
        td_chat_reply r = parse(text, n, &h);
        for (size_t b = 0; b < r.n_blocks; b++) { /* what the model ended itself is an object */
            const td_json *v = NULL;
            if (r.blocks[b].kind != TD_CHAT_BLOCK_CALL) continue;
            if (h.end == TD_CHAT_END_MODEL) assert_true(r.blocks[b].complete);
            if (!r.blocks[b].complete) continue;
            td_arena *a = td_arena_create(0);
            td_status status =
                td_json_parse(&v, a, r.blocks[b].text.data, r.blocks[b].text.n_bytes, TD_JSON_LAST_WINS, NULL);
            if (status != TD_OK || v->kind != TD_JSON_OBJECT)
                fail_msg("%.*s\n gives %s", (int)n, text, r.blocks[b].text.data);
            td_arena_destroy(a);
        }
        td_chat_reply_free(&r);
        td_buf_free(&whole);
        td_buf_free(&cut);
        td_buf_free(&bytes);
    }
}

/* ---- round trip and replay --------------------------------------------------------------------------------------- */

/* Arguments that are rendered and parsed again have the same value. */
static void test_round_trip(void **state) {
    (void)state;
    static const char *const rows[] = {"{}", "{'q':'a \\n <tool_call|> {x}: [1], é','limit':-7}",
                                       "{'opts':{'note':'','deep':false,'B':{'a':[[],{}]}},'ratio':1.5e-9}",
                                       "{'tags':['x,y','{','null','1',' z '],'q':null,'n':[1,null,true,'true']}"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char args[256], json[512];
        const td_json *want = NULL, *got = NULL;
        snprintf(args, sizeof args, "%s", rows[i]);
        for (char *s = args; *s; s++)
            if (*s == '\'') *s = '"';
        assert_int_equal(td_json_parse(&want, arena, args, strlen(args), TD_JSON_REJECT, NULL), TD_OK);
        snprintf(json, sizeof json,
                 "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"find\","
                 "\"arguments\":%s}}]}],\"options\":{\"strict\":false,\"profile\":\"g2-small\"}}",
                 args);
        char *text = chat_fixture_text(json);
        char *call = strstr(text, "<|tool_call>");
        td_chat_reply r = parse(call, (size_t)(strstr(text, "<tool_call|><|tool_response>") + 12 - call), &(how){0});
        assert_int_equal(r.n_blocks, 1);
        assert_int_equal(
            td_json_parse(&got, arena, r.blocks[0].text.data, r.blocks[0].text.n_bytes, TD_JSON_REJECT, NULL), TD_OK);
        assert_true(td_json_equal(got, want));
        td_chat_reply_free(&r);
        free(text);
    }
}

static void test_tokens_of_a_generation(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    const char *text =
        "<|channel>thought\nhm\n<channel|>Zo\xC3\xAB \xE2\x98\x83" TC "find{q:" Q "\xF0\x9F\x98\x80" Q "}" TE;
    td_tokens t = {0};
    watcher w = {0};
    td_buf out = {0};
    td_chat_parse_options o = {.tools = tools, .n_tools = n_tools, .sink = watch, .context = &w};
    td_chat_parser *p = NULL;
    assert_int_equal(td_vocab_tokenize(v, text, strlen(text), TD_SPECIAL_ALL, false, &t, NULL), TD_OK);
    assert_true(td_tokens_add(&t, 2) && td_tokens_add(&t, 106) && td_tokens_add(&t, 9259));
    assert_int_equal(td_chat_parser_create(&p, &o, NULL), TD_OK);
    for (size_t i = 0; i < t.n; i++) assert_true(td_chat_parser_token(p, v, t.ids[i]));
    assert_true(td_chat_parser_token(p, v, UINT32_MAX) && td_chat_parser_stopped(p));
    assert_true(td_chat_parser_finish(p, TD_CHAT_END_MODEL) && !w.bad);
    show(&w.reply, &out);
    assert_string_equal(out.data, "hm|Zo\xC3\xAB \xE2\x98\x83|find({\"q\":\"\xF0\x9F\x98\x80\"})");
    td_chat_parser_destroy(p);
    td_chat_reply_free(&w.reply);
    td_tokens_free(&t);
    td_buf_free(&out);
}

typedef struct turn {
    td_chat_prompt p;
    td_tokens t;
} turn;

static turn second_turn(const char *messages, td_chat_replay *replay, const td_chat_vocab *cv) {
    char json[2048];
    const td_json *c = NULL;
    turn out = {0};
    snprintf(json, sizeof json, "{\"options\":{\"profile\":\"g2-large\",\"strict\":false},\"messages\":[%s]}",
             messages);
    char *copy = td_arena_strndup(arena, json, strlen(json));
    assert_int_equal(td_json_parse(&c, arena, copy, strlen(copy), TD_JSON_REJECT, NULL), TD_OK);
    chat_fixture_render(c, arena, replay, &out.p);
    assert_int_equal(td_chat_prompt_tokenize(&out.p, cv, false, &out.t, NULL, NULL), TD_OK);
    return out;
}

static void turn_free(turn *t) {
    td_chat_prompt_free(&t->p);
    td_tokens_free(&t->t);
}

/* X11: the second request of a tool loop begins with all tokens of the first one and of its answer, although the answer
 * has unsorted keys, a number that prints otherwise, and an empty thought before it. */
static void test_exact_replay(void **state) {
    (void)state;
#define USER "{\"role\":\"user\",\"content\":\"look\"}"
#define CALL(args)                                                                                                     \
    ",{\"role\":\"assistant\",\"content\":\"Let me see.\",\"tool_calls\":[{\"id\":\"call_1\",\"function\":{\"name\":"  \
    "\"find\",\"arguments\":" args "}}]},{\"role\":\"tool\",\"tool_call_id\":\"call_1\",\"content\":\"7\"}"
    const td_vocab *v = fixture_vocab();
    td_chat_vocab cv;
    const char *warning = NULL;
    td_chat_replay *replay = NULL;
    assert_int_equal(td_chat_vocab_init(&cv, v, &warning, NULL), TD_OK);
    assert_int_equal(td_chat_replay_create(&replay, 1 << 20, NULL), TD_OK);
    turn first = second_turn(USER, replay, &cv);
    td_tokens answer = {0};
    const char *written = "Let me see. \n" TC "find{q:" Q "fox" Q ",limit:3.0,Also:[1]}" TE;
    assert_int_equal(td_vocab_tokenize(v, written, strlen(written), TD_SPECIAL_ALL, false, &answer, NULL), TD_OK);
    td_chat_reply r = parse(written, strlen(written), &(how){.start = first.p.start});
    /* What the server remembers: the tokens from the answer's beginning in the prompt on. */
    td_tokens all = {0};
    td_buf text = {0};
    td_buf_add(&text, first.p.text.data + first.p.start.begin, first.p.text.n_bytes - first.p.start.begin);
    assert_int_equal(td_vocab_tokenize(v, text.data, text.n_bytes, TD_SPECIAL_ALL, false, &all, NULL), TD_OK);
    assert_int_equal(all.n, 4); /* the empty thought */
    for (size_t i = 0; i < answer.n; i++) assert_true(td_tokens_add(&all, answer.ids[i]));
    td_buf_add_str(&text, written);
    td_slice id = {"call_1", 6};
    assert_int_equal(td_chat_replay_put(replay, &r, &id, all.ids, all.n, text.data, text.n_bytes, NULL), TD_OK);

    static const char same[] = USER CALL("\"{\\\"limit\\\":3,\\\"Also\\\":[1.0],\\\"q\\\":\\\"fox\\\"}\"");
    turn second = second_turn(same, replay, &cv);
    assert_true(second.t.n > first.t.n + answer.n);
    assert_memory_equal(second.t.ids, first.t.ids, first.t.n * sizeof(uint32_t));
    assert_memory_equal(second.t.ids + first.t.n, answer.ids, answer.n * sizeof(uint32_t));
    turn plain = second_turn(same, NULL, &cv);
    assert_memory_not_equal(second.t.ids, plain.t.ids, (first.t.n + answer.n) * sizeof(uint32_t));
    turn other = second_turn(USER CALL("{\"limit\":4,\"Also\":[1],\"q\":\"fox\"}"), replay, &cv);
    assert_null(strstr(other.p.text.data, "limit:3.0"));
    /* Behind a further user message the empty thought has to go, so the template's text stands there. */
    turn later = second_turn(USER CALL("{\"limit\":3,\"Also\":[1],\"q\":\"fox\"}") "," USER, replay, &cv);
    assert_null(strstr(later.p.text.data, "limit:3.0"));

    size_t before = td_chat_replay_bytes(replay);
    td_slice id2 = {"call_2", 6};
    for (int i = 0; i < 5000; i++)
        assert_int_equal(td_chat_replay_put(replay, &r, &id2, all.ids, all.n, text.data, text.n_bytes, NULL), TD_OK);
    assert_true(before > 0 && td_chat_replay_bytes(replay) <= 1 << 20);
    turn gone = second_turn(same, replay, &cv);
    assert_null(strstr(gone.p.text.data, "limit:3.0"));
    turn_free(&first), turn_free(&second), turn_free(&plain), turn_free(&other), turn_free(&later), turn_free(&gone);
    td_chat_replay_destroy(replay);
    td_chat_reply_free(&r);
    td_tokens_free(&answer);
    td_tokens_free(&all);
    td_buf_free(&text);
}

/* A sink that says stop ends the parser at once. */
static bool refuse(void *context, const td_chat_event *e) {
    (void)e;
    return ++*(int *)context < 1;
}

static void test_sink_can_stop(void **state) {
    (void)state;
    int n = 0;
    td_chat_parse_options o = {.sink = refuse, .context = &n};
    td_chat_parser *p = NULL;
    assert_int_equal(td_chat_parser_create(&p, &o, NULL), TD_OK);
    assert_false(td_chat_parser_text(p, "abc", 3) && td_chat_parser_text(p, "def", 3));
    assert_false(td_chat_parser_finish(p, TD_CHAT_END_MODEL));
    assert_int_equal(n, 1);
    td_chat_parser_destroy(p);
}

/* Time stays linear: a million characters without a marker, inside a string, a key, a thought. */
static void test_long_outputs(void **state) {
    (void)state;
    static const char *const heads[] = {"",
                                        "<|channel>thought\n",
                                        TC,
                                        TC "find{",
                                        TC "find{q:",
                                        TC "find{q:" Q,
                                        TC "find{q:\"",
                                        "<|tool_call>{\"name\":",
                                        TC "find{q:[[["};
    enum { N = 1 << 20 };
    char *text = malloc(N + 64);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        size_t n = strlen(heads[i]);
        memcpy(text, heads[i], n);
        memset(text + n, i == 8 ? '[' : '<', N);
        td_chat_reply r = parse(text, n + N, &(how){.piece = 1000});
        td_chat_reply_free(&r);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_thoughts),
        cmocka_unit_test(test_reasoning_formats),
        cmocka_unit_test(test_prefilled),
        cmocka_unit_test(test_tolerant_values),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_without_tools_calls_are_text),
        cmocka_unit_test(test_cut_by_length),
        cmocka_unit_test(test_arguments_stream),
        cmocka_unit_test(test_random_outputs),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_tokens_of_a_generation),
        cmocka_unit_test(test_exact_replay),
        cmocka_unit_test(test_sink_can_stop),
        cmocka_unit_test(test_long_outputs),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    fixture_release();
    return failed;
}
