/* The chat dialects: what each body becomes, what is refused and with which words, and the bytes of answers. The
 * expectations are the specification's examples or written by hand from its rules. */
#include "server/msg.h"

#include "text/chat_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const msg_defaults plain = {.reasoning = -1, .reasoning_budget = -1};

typedef td_status reader(msg_request *, const td_json *, const msg_defaults *, td_arena *, td_error *);

typedef struct body { /* a body that was read */
    td_arena *a;
    char *text;
    msg_request r;
    td_status status;
    td_error err;
} body;

/* Single quotation marks in `json` stand for double ones. */
static body read_body(reader *read, const char *json, const msg_defaults *d) {
    body b = {.a = td_arena_create(0), .text = strdup(json)};
    const td_json *v = NULL;
    for (char *s = b.text; *s; s++)
        if (*s == '\'') *s = '"';
    if (td_json_parse(&v, b.a, b.text, strlen(b.text), TD_JSON_REJECT, &b.err) != TD_OK) fail_msg("%s", b.err.text);
    b.status = read(&b.r, v, d, b.a, &b.err);
    return b;
}

static void body_free(body *b) {
    td_arena_destroy(b->a);
    free(b->text);
}

/* The prompt that the body becomes (g2-small), without <bos>. */
static void expect_prompt(reader *read, const char *json, const char *want) {
    body b = read_body(read, json, &plain);
    td_chat_prompt p = {0};
    if (b.status != TD_OK) fail_msg("%s", b.err.text);
    td_chat_options o = msg_render_options(&b.r, (td_chat_profile){TD_CHAT_G2, false}, NULL);
    assert_int_equal(td_chat_render(&p, b.r.messages, b.r.n_messages, b.r.tools, b.r.n_tools, &o, b.a, NULL), TD_OK);
    assert_string_equal(td_chat_prompt_text(&p).data, want);
    td_chat_prompt_free(&p);
    body_free(&b);
}

typedef struct refusal {
    const char *json, *text, *param;
} refusal;

static void expect_refusals(reader *read, const refusal *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        body b = read_body(read, rows[i].json, &plain);
        if (b.status != TD_ERR_ARGUMENT || !strstr(b.err.text, rows[i].text))
            fail_msg("%s\n want %s\n got  %s", rows[i].json, rows[i].text, b.err.text);
        assert_string_equal(b.r.param, rows[i].param);
        body_free(&b);
    }
}

#define U "'messages':[{'role':'user','content':'q'}]"

/* ---- requests: chat ---------------------------------------------------------------------------------------------- */

static void test_chat_request(void **state) {
    (void)state;
    body b =
        read_body(msg_read_chat,
                  "{" U ",'stream':true,'stream_options':{'include_usage':true},'stop':['a','','b'],'max_tokens':5,"
                  "'max_completion_tokens':7,'logprobs':true,'top_logprobs':3,'prompt_cache_key':'k','tools':[{'type':"
                  "'function','function':{'name':'f','parameters':{'properties':{'x':{'const':'c'}}}}},{'type':'web'},"
                  "{'type':'function','function':{'name':'g'}}],'tool_choice':{'type':'function','function':{'name':"
                  "'g'}},'parallel_tool_calls':false,'response_format':{'type':'json_schema','json_schema':{'name':'s',"
                  "'schema':{'type':'object'},'strict':true}},'unknown':[1]}",
                  &plain);
    assert_int_equal(b.status, TD_OK);
    const msg_request *r = &b.r;
    assert_true(r->stream && r->include_usage && r->logprobs && !r->parallel_calls && r->schema_strict && r->schema);
    assert_int_equal(r->n_stop, 2);
    assert_int_equal(r->max_tokens, 7);
    assert_int_equal(r->top_logprobs, 3);
    assert_int_equal(r->n_tools, 2);
    assert_int_equal(r->n_dropped, 1);
    assert_int_equal(r->tool_choice, MSG_TOOLS_REQUIRED);
    assert_true(!r->allowed[0] && r->allowed[1]);
    assert_true(td_json_is_string(td_json_get(r->tools[0].parameters, "type"), "object")); /* cleaned */
    assert_true(r->thinking && r->thinking_by_default && r->continue_final && r->format == MSG_FORMAT_SCHEMA);
    body_free(&b);
    b = read_body(
        msg_read_chat,
        "{" U ",'functions':[{'name':'f'},{'name':'g'}],'function_call':{'name':'f'},'add_generation_prompt':false}",
        &plain);
    assert_true(b.status == TD_OK && b.r.n_tools == 2 && b.r.allowed[0] && !b.r.allowed[1] && b.r.no_generation_prompt);
    assert_false(b.r.continue_final);
    body_free(&b);
    b = read_body(msg_read_chat,
                  "{" U ",'tools':[{'function':{'name':'f'}},{'function':{'name':'g'}}],'tool_choice':{'type':"
                  "'allowed_tools','allowed_tools':{'mode':'required','tools':[{'type':'function','function':{'name':"
                  "'g'}}]}}}",
                  &plain);
    assert_true(b.status == TD_OK && b.r.tool_choice == MSG_TOOLS_REQUIRED && !b.r.allowed[0] && b.r.allowed[1]);
    body_free(&b);
}

static void test_chat_refusals(void **state) {
    (void)state;
    static const refusal rows[] = {
        {"{}", "'messages' is required", "messages"},
        {"{'messages':5}", "Expected 'messages' to be an array", "messages"},
        {"{" U ",'stream':1}", "Field 'stream': expected a boolean", "stream"},
        {"{" U ",'stream_options':[]}", "Field 'stream_options'", "stream_options"},
        {"{" U ",'max_tokens':-2}", "Field 'max_tokens': Value must be between -1 <= value <= 2147483647, but got -2",
         "max_tokens"},
        {"{" U ",'max_tokens':1.5}", "but got 1.5", "max_tokens"},
        {"{" U ",'max_completion_tokens':'5'}", "Field 'max_completion_tokens': expected an integer",
         "max_completion_tokens"},
        {"{" U ",'top_logprobs':5}", "top_logprobs requires logprobs to be set to true", "top_logprobs"},
        {"{" U ",'logprobs':true,'top_logprobs':21}", "Value must be between 0 <= value <= 20", "top_logprobs"},
        {"{" U ",'stop':5}", "Field 'stop'", "stop"},
        {"{" U ",'stop':[5]}", "Field 'stop'", "stop"},
        {"{" U ",'response_format':{'type':'xml'}}", "but got: xml", "response_format"},
        {"{" U ",'response_format':{'type':'json_schema'}}", "needs a schema", "response_format"},
        {"{" U ",'response_format':{'type':'json_object','schema':[1]}}", "must be an object", "response_format"},
        {"{" U ",'tool_choice':'required'}", "the request has no tools", "tool_choice"},
        {"{" U ",'tool_choice':'maybe'}", "Invalid tool_choice", "tool_choice"},
        {"{" U ",'tools':[{'function':{'name':'f'}}],'tool_choice':{'type':'function','function':{'name':'g'}}}",
         "there is no tool 'g'", "tool_choice"},
        {"{" U ",'tools':{}}", "Expected 'tools' to be an array", "tools"},
        {"{" U ",'tools':[{'type':'function','function':{}}]}", "must have a 'name'", "tools"},
        {"{" U ",'tools':[{'function':{'name':'f'}}],'grammar':'root ::= x'}",
         "Cannot use custom grammar constraints with tools.", "grammar"},
        {"{" U ",'reasoning_format':'loud'}", "Field 'reasoning_format'", "reasoning_format"},
        {"{" U ",'reasoning_effort':'huge'}", "Field 'reasoning_effort'", "reasoning_effort"},
        {"{" U ",'chat_template_kwargs':{'enable_thinking':'yes'}}", "invalid type for \"enable_thinking\"",
         "chat_template_kwargs.enable_thinking"},
        {"{" U ",'add_generation_prompt':true,'continue_final_message':true}",
         "Cannot set both add_generation_prompt and continue_final_message to true.", "continue_final_message"},
        {"{'messages':[{'role':'user','content':[{'type':'image_url','image_url':{'url':'x'}}]}]}",
         "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", "messages"},
        {"{'messages':[{'role':'user','content':[{'type':'input_audio'}]}]}", "audio input is not supported",
         "messages"}};
    expect_refusals(msg_read_chat, rows, sizeof rows / sizeof *rows);
}

/* The order of the switches: the first one that says something wins. */
static void test_thinking_switches(void **state) {
    (void)state;
    static const struct {
        reader *read;
        const char *json;
        int server; /* --reasoning */
        bool on, by_default;
        int64_t budget;
    } rows[] = {
        {msg_read_chat, "{" U "}", -1, true, true, -1},
        {msg_read_chat, "{" U "}", 0, false, true, -1},
        {msg_read_chat, "{" U ",'chat_template_kwargs':{'enable_thinking':false},'reasoning_effort':'low'}", 1, false,
         false, 512},
        {msg_read_chat, "{" U ",'reasoning_effort':'none','think':true}", 1, false, false, -1},
        {msg_read_chat, "{" U ",'reasoning_effort':'minimal'}", 0, true, false, 128},
        {msg_read_chat, "{" U ",'reasoning_effort':'medium','reasoning_budget_tokens':9}", 0, true, false, 9},
        {msg_read_chat, "{" U ",'reasoning_effort':'high'}", 0, true, false, -1},
        {msg_read_chat, "{" U ",'reasoning':{'enabled':false}}", 1, false, false, -1},
        {msg_read_chat, "{" U ",'reasoning':{'effort':'low'}}", 0, true, false, 512},
        {msg_read_chat, "{" U ",'think':false}", 1, false, false, -1},
        {msg_read_chat, "{" U ",'thinking_budget_tokens':0}", 1, true, true, 0},
        {msg_read_anthropic, "{" U "}", 1, false, true, -1},
        {msg_read_anthropic, "{" U ",'thinking':{'type':'enabled','budget_tokens':2000}}", 0, true, false, 2000},
        {msg_read_anthropic, "{" U ",'thinking':{'type':'adaptive'},'output_config':{'effort':'low'}}", 0, true, false,
         512},
        {msg_read_anthropic, "{" U ",'thinking':{'type':'disabled'}}", 1, false, false, -1},
        {msg_read_anthropic, "{" U ",'output_config':{'effort':'high'}}", 1, false, true, -1},
        {msg_read_responses, "{'input':'q','reasoning':{'effort':'medium'}}", 0, true, false, 2048},
        {msg_read_responses, "{'input':'q','reasoning':{'effort':null}}", 0, false, true, -1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        msg_defaults d = plain;
        d.reasoning = rows[i].server;
        body b = read_body(rows[i].read, rows[i].json, &d);
        if (b.status != TD_OK || b.r.thinking != rows[i].on || b.r.thinking_by_default != rows[i].by_default ||
            b.r.reasoning_budget != rows[i].budget)
            fail_msg("%s: %d %d %lld %s", rows[i].json, b.r.thinking, b.r.thinking_by_default,
                     (long long)b.r.reasoning_budget, b.err.text);
        body_free(&b);
    }
}

/* ---- requests: Anthropic ----------------------------------------------------------------------------------------- */

#define RESULT(name, text) "<|tool_response>response:" name "{value:<|\"|>" text "<|\"|>}<tool_response|>"

static void test_anthropic_messages(void **state) {
    (void)state;
    /* System blocks joined, a result before the text beside it (X4), an error marked, unknown blocks left out. */
    expect_prompt(
        msg_read_anthropic,
        "{'system':[{'type':'text','text':'One.','cache_control':{'type':'ephemeral'}},{'type':'text','text':'Two.'}],"
        "'messages':[{'role':'user','content':'look'},{'role':'assistant','content':[{'type':'thinking','thinking':'hm'"
        ","
        "'signature':''},{'type':'redacted_thinking','data':'x'},{'type':'text','text':'Yes.'},{'type':'tool_use','id':"
        "'t1','name':'f','input':{'b':1,'a':'x'}},{'type':'tool_use','id':'t2','name':'g','input':{}}]},{'role':'user',"
        "'content':[{'type':'text','text':'And hurry.'},{'type':'tool_result','tool_use_id':'t2','is_error':true,"
        "'content':[{'type':'text','text':'no file'}]},{'type':'tool_result','tool_use_id':'t1','content':'ok'}]}]}",
        "<|turn>system\nOne.\nTwo.<turn|>\n<|turn>user\nlook<turn|>\n<|turn>model\nYes.<|tool_call>call:f{a:<|\"|>x<|"
        "\"|>"
        ",b:1}<tool_call|><|tool_call>call:g{}<tool_call|>" RESULT("g", "Error: no file")
            RESULT("f", "ok") "<turn|>\n<|turn>user\nAnd hurry.<turn|>\n<|turn>model\n");
    /* A document as text, a reminder of the system in its place, a server tool with its result. */
    expect_prompt(
        msg_read_anthropic,
        "{'messages':[{'role':'user','content':[{'type':'document','source':{'type':'text','data':'DOC'}},{'type'"
        ":'text','text':'read'}]},{'role':'assistant','content':[{'type':'server_tool_use','id':'s','name':"
        "'web_search','input':{'query':'x'}},{'type':'web_search_tool_result','tool_use_id':'s','content':[{"
        "'type':'web_search_result','title':'T','url':'http://u'}]},{'type':'text','text':'Done.'}]},{'role':"
        "'system','content':'left: 5'}]}",
        "<|turn>user\nDOC\nread<turn|>\n<|turn>model\n<|tool_call>call:web_search{query:<|\"|>x<|\"|>}"
        "<tool_call|>" RESULT("web_search",
                              "T\nhttp://u") "Done.<turn|>\n<|turn>system\nleft: 5<turn|>\n<|turn>model\n");
    /* The last assistant message is the beginning of the answer. */
    expect_prompt(msg_read_anthropic,
                  "{'messages':[{'role':'user','content':'json'},{'role':'assistant','content':'{'}]}",
                  "<|turn>user\njson<turn|>\n<|turn>model\n{");
}

static void test_anthropic_request(void **state) {
    (void)state;
    body b =
        read_body(msg_read_anthropic,
                  "{" U ",'max_tokens':0,'stop_sequences':['END'],'stream':true,'tools':[{'name':'f','description':"
                  "'d','input_schema':{'type':'object'}},{'type':'web_search_20250305','name':'web_search'},{'type':"
                  "'bash_1','name':'bash','input_schema':{'type':'object'}}],'tool_choice':{'type':'tool','name':'f',"
                  "'disable_parallel_tool_use':true},'thinking':{'type':'enabled','display':'omitted'},"
                  "'output_config':{'format':{'type':'json_schema','schema':{'type':'object'}},'task_budget':{}},"
                  "'metadata':{'user_id':'u'},'context_management':{}}",
                  &plain);
    assert_int_equal(b.status, TD_OK);
    assert_true(b.r.stream && b.r.hide_reasoning && !b.r.parallel_calls && b.r.format == MSG_FORMAT_SCHEMA);
    assert_int_equal(b.r.max_tokens, 0);
    assert_int_equal(b.r.n_tools, 2);
    assert_int_equal(b.r.n_dropped, 1);
    assert_int_equal(b.r.n_stop, 1);
    assert_true(b.r.tool_choice == MSG_TOOLS_REQUIRED && b.r.allowed[0] && !b.r.allowed[1]);
    body_free(&b);
    b = read_body(msg_read_anthropic, "{" U ",'tools':[{'name':'f'}],'tool_choice':{'type':'any'}}", &plain);
    assert_true(b.status == TD_OK && b.r.max_tokens == 4096 && b.r.tool_choice == MSG_TOOLS_REQUIRED && !b.r.allowed);
    body_free(&b);
    static const refusal rows[] = {
        {"{}", "'messages' is required", "messages"},
        {"{'messages':{}}", "Expected 'messages' to be an array", "messages"},
        {"{'messages':[{'role':'tool','content':''}]}", "messages.0: unexpected role", "messages"},
        {"{'messages':[{'role':'user'}]}", "messages.0.content", "messages"},
        {"{'messages':[{'role':'user','content':[{'type':'image','source':{'type':'file'}}]}]}", "image source type",
         "messages"},
        {"{'messages':[{'role':'user','content':[{'type':'image','source':{'type':'base64'}}]}]}",
         "image input is not supported", "messages"},
        {"{'messages':[{'role':'user','content':[{'type':'document','source':{'type':'url'}}]}]}", "document blocks",
         "messages"},
        {"{" U ",'thinking':{'type':'maybe'}}", "thinking.type", "thinking"},
        {"{" U ",'system':5}", "system: expected", "system"},
        {"{" U ",'max_tokens':-1}", "Field 'max_tokens'", "max_tokens"},
        {"{" U ",'tools':[{'input_schema':{}}]}", "must have a 'name'", "tools"}};
    expect_refusals(msg_read_anthropic, rows, sizeof rows / sizeof *rows);
}

/* X10: the head of the prompt is the same for every request of a session. */
static void test_client_noise(void **state) {
    (void)state;
    static const char json[] =
        "{'system':[{'type':'text','text':'x-anthropic-billing-header: cc_version=2; cch=%s;'},{'type':'text','text':"
        "'Be.%s'}]," U "}";
    char one[512], two[512];
    snprintf(one, sizeof one, json, "a1b2c", "");
    snprintf(two, sizeof two, json, "99999",
             "\\n<total_tokens>5 tokens left</total_tokens>\\n<total_tokens>4 tokens left</total_tokens>");
    static const char want[] =
        "<|turn>system\nx-anthropic-billing-header: cc_version=2; cch=fffff;\nBe.<turn|>\n<|turn>"
        "user\nq<turn|>\n<|turn>model\n";
    expect_prompt(msg_read_anthropic, one, want);
    expect_prompt(msg_read_anthropic, two, want);
    msg_defaults d = plain;
    d.keep_client_noise = true;
    body b = read_body(msg_read_anthropic, one, &d);
    assert_non_null(strstr(b.r.messages[0].parts[0].text.data, "cch=a1b2c"));
    body_free(&b);
}

/* ---- requests: responses ----------------------------------------------------------------------------------------- */

static void test_responses_request(void **state) {
    (void)state;
    expect_prompt(
        msg_read_responses,
        "{'instructions':'Be.','reasoning':{'effort':'none'},'input':[{'role':'user','content':[{'type':'input_text','"
        "text'"
        ":'look'}]},{'type':'reasoning','summary':[{'type':'summary_text','text':'hm'}]},{'type':'message','role':"
        "'assistant','content':[{'type':'output_text','text':'Yes.'}]},{'type':'function_call','call_id':'c1','name':'"
        "f',"
        "'arguments':'{\\u0022a\\u0022:1}'},{'type':'custom_tool_call','call_id':'c2','name':'patch','input':'*** x'},{"
        "'type':'function_call_output','call_id':'c1','output':'ok'},{'type':'custom_tool_call_output','call_id':'c2',"
        "'output':[{'type':'input_text','text':'done'}]},{'type':'web_search_call'}],'tools':[{'type':'custom','name':"
        "'patch'},{'type':'web_search'}]}",
        "<|turn>system\nBe.<|tool>declaration:patch{description:<|\"|><|\"|>,parameters:{properties:{input:{type:<|\"|>"
        "STRING<|\"|>}},required:[<|\"|>input<|\"|>],type:<|\"|>OBJECT<|\"|>}}<tool|><turn|>\n<|turn>user\nlook<turn|>"
        "\n"
        "<|turn>model\n<|channel>thought\nhm\n<channel|>Yes.<|tool_call>call:f{a:1}<tool_call|><|tool_call>call:patch{"
        "input:<|\"|>*** x<|\"|>}<tool_call|>" RESULT("f", "ok") RESULT("patch", "done"));
    body b =
        read_body(msg_read_responses,
                  "{'input':'q','max_output_tokens':9,'text':{'format':{'type':'json_schema','name':'n','schema':{}}},"
                  "'tools':[{'type':'function','name':'f','parameters':{}}],'tool_choice':{'type':'function','name':"
                  "'f'},'previous_response_id':'resp_1'}",
                  &plain);
    assert_true(b.status == TD_OK && b.r.max_tokens == 9 && b.r.format == MSG_FORMAT_SCHEMA && b.r.allowed[0]);
    assert_int_equal(b.r.previous_response_id.n_bytes, 6);
    body_free(&b);
    static const refusal rows[] = {
        {"{}", "'input' is required", "input"},
        {"{'input':5}", "Expected 'input' to be a string or an array", "input"},
        {"{'input':[5]}", "input[0]: expected an object", "input"},
        {"{'input':[{'type':'item_reference','id':'x'}]}", "item_reference is not supported", "input"},
        {"{'input':[{'role':'user','content':[{'type':'input_file'}]}]}", "unsupported content[].type", "input"},
        {"{'input':[{'role':'bot','content':''}]}", "unknown role", "input"},
        {"{'input':[{'type':'function_call','name':'f','arguments':'['}]}", "must be a JSON object", "input"},
        {"{'input':'q','max_output_tokens':-5}", "Field 'max_output_tokens'", "max_output_tokens"}};
    expect_refusals(msg_read_responses, rows, sizeof rows / sizeof *rows);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static const msg_head head = {"ID-1", "m", "b1-abc", 1790000000};
static const msg_usage usage = {9, 4, 5, 2, 3, 1};

typedef struct script {
    td_chat_event_kind kind;
    uint32_t call;
    const char *text;
} script;

static const script agent[] = {{TD_CHAT_REASONING, 0, "Need a look"},   {TD_CHAT_CONTENT, 0, "One moment."},
                               {TD_CHAT_CALL_BEGIN, 0, "find"},         {TD_CHAT_CALL_ARGUMENTS, 0, "{\"q\":\"re"},
                               {TD_CHAT_CALL_ARGUMENTS, 0, "d fox\"}"}, {TD_CHAT_CALL_END, 0, ""}};

/* Runs a script through a writer; ids that are drawn become fixed ones of the same length. */
static char *write_answer(reader *read, const char *json, const script *s, size_t n, msg_stop why, const char *word) {
    body b = read_body(read, json, &plain);
    td_buf out = {0};
    msg_writer w;
    if (b.status != TD_OK) fail_msg("%s", b.err.text);
    msg_writer_init(&w, &b.r, &head, 0, &out);
    assert_true(msg_writer_begin(&w, &usage));
    for (size_t i = 0; i < n; i++)
        assert_true(msg_writer_event(&w, &(td_chat_event){s[i].kind, s[i].call, {s[i].text, strlen(s[i].text)}}));
    if (b.r.stream) {
        assert_true(msg_writer_end(&w, why, word, &usage) && msg_write_end(&w, &usage));
    } else {
        msg_writer *all = &w;
        assert_true(msg_write_answer(&out, &all, &why, &word, 1, &usage));
    }
    static const char *const prefixes[] = {"\"call_", "\"toolu_", "\"rs_", "\"msg_", "\"fc_"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        for (char *at = strstr(out.data, prefixes[i]); at; at = strstr(at + 1, prefixes[i])) {
            char *id = at + strlen(prefixes[i]), *end = strchr(id, '"');
            if (end - id == 24) memmove(id + 1, end, strlen(end) + 1), *id = 'X';
        }
    msg_writer_free(&w);
    body_free(&b);
    return out.data;
}

static void expect_answer(reader *read, const char *json, const script *s, size_t n, msg_stop why, const char *word,
                          const char *want) {
    char *got = write_answer(read, json, s, n, why, word);
    assert_string_equal(got, want);
    free(got);
}

#define TAIL                                                                                                           \
    "\"created\":1790000000,\"id\":\"ID-1\",\"model\":\"m\",\"system_fingerprint\":\"b1-abc\",\"object\":"             \
    "\"chat.completion.chunk\"}\n\n"
#define CHUNK(delta) "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{" delta "}}]," TAIL
#define FINISH(word) "data: {\"choices\":[{\"finish_reason\":\"" word "\",\"index\":0,\"delta\":{}}]," TAIL
#define ROLE         CHUNK("\"role\":\"assistant\",\"content\":null")
#define CHAT_USAGE                                                                                                     \
    "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,\"total_tokens\":14,\"prompt_tokens_details\":{"           \
    "\"cached_tokens\":4},\"completion_tokens_details\":{\"reasoning_tokens\":2,\"accepted_prediction_tokens\":3,"     \
    "\"rejected_prediction_tokens\":1}}"

static void test_chat_stream(void **state) {
    (void)state;
    expect_answer(
        msg_read_chat, "{" U ",'stream':true,'stream_options':{'include_usage':true}}", agent, 6, MSG_STOP_MODEL, NULL,
        ROLE CHUNK("\"reasoning_content\":\"Need a look\"") CHUNK("\"content\":\"One moment.\"")
            CHUNK("\"tool_calls\":[{\"index\":0,\"id\":\"call_X\",\"type\":\"function\",\"function\":{\"name\":"
                  "\"find\",\"arguments\":\"\"}}]")
                CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"q\\\":\\\"re\"}}]")
                    CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"d fox\\\"}\"}}]")
                        FINISH("tool_calls") "data: {\"choices\":[],\"created\":1790000000,\"id\":\"ID-1\","
                                             "\"model\":\"m\",\"system_fingerprint\":\"b1-abc\",\"object\":"
                                             "\"chat.completion.chunk\"," CHAT_USAGE "}\n\ndata: [DONE]\n\n");
    expect_answer(msg_read_chat, "{" U ",'stream':true,'include_reasoning':false}", agent, 5, MSG_STOP_LENGTH, NULL,
                  ROLE CHUNK("\"content\":\"One moment.\"") CHUNK(
                      "\"tool_calls\":[{\"index\":0,\"id\":\"call_X\",\"type\":\"function\",\"function\":{\"name\":"
                      "\"find\",\"arguments\":\"\"}}]")
                      CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"q\\\":\\\"re\"}}]")
                          CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"d fox\\\"}\"}}]")
                              FINISH("length") "data: [DONE]\n\n");
}

static void test_chat_answer(void **state) {
    (void)state;
#define HEAD_MEMBERS                                                                                                   \
    "\"created\":1790000000,\"id\":\"ID-1\",\"model\":\"m\",\"system_fingerprint\":\"b1-abc\",\"object\":"             \
    "\"chat.completion\"," CHAT_USAGE "}"
    expect_answer(msg_read_chat, "{" U "}", agent, 6, MSG_STOP_MODEL, NULL,
                  "{\"choices\":[{\"index\":0,\"finish_reason\":\"tool_calls\",\"message\":{\"role\":\"assistant\","
                  "\"content\":\"One moment.\",\"reasoning_content\":\"Need a look\",\"tool_calls\":[{\"type\":"
                  "\"function\",\"id\":\"call_X\",\"function\":{\"name\":\"find\",\"arguments\":\"{\\\"q\\\":\\\"red "
                  "fox\\\"}\"}}]}}]," HEAD_MEMBERS);
    expect_answer(
        msg_read_chat, "{" U "}", agent + 1, 1, MSG_STOP_WORD, "x",
        "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":"
        "\"One moment.\"}}]," HEAD_MEMBERS);
    expect_answer(
        msg_read_chat, "{" U "}", NULL, 0, MSG_STOP_MODEL, NULL,
        "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":"
        "\"\"}}]," HEAD_MEMBERS);
}

#define EV(name, data) "event: " name "\ndata: {\"type\":\"" name "\"" data "}\n\n"

static void test_anthropic_stream(void **state) {
    (void)state;
    expect_answer(
        msg_read_anthropic, "{" U ",'stream':true,'thinking':{'type':'enabled'}}", agent, 6, MSG_STOP_MODEL, NULL,
        EV("message_start",
           ",\"message\":{\"id\":\"ID-1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],"
           "\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,"
           "\"cache_creation_input_tokens\":0,\"output_tokens\":5}}") EV("ping", "")
            EV("content_block_start", ",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":"
                                      "\"\",\"signature\":\"\"}")
                EV("content_block_delta",
                   ",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Need a look\"}")
                    EV("content_block_delta",
                       ",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"\"}")
                        EV("content_block_stop", ",\"index\":0") EV(
                            "content_block_start", ",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}")
                            EV("content_block_delta",
                               ",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"One moment.\"}")
                                EV("content_block_stop", ",\"index\":1") EV(
                                    "content_block_start",
                                    ",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_X\",\"name\":"
                                    "\"find\",\"input\":{}}")
                                    EV("content_block_delta",
                                       ",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":"
                                       "\"{\\\"q\\\":\\\"re\"}")
                                        EV("content_block_delta",
                                           ",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":"
                                           "\"d fox\\\"}\"}") EV("content_block_stop", ",\"index\":2")
                                            EV("message_delta",
                                               ",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},"
                                               "\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,"
                                               "\"output_tokens\":5}") EV("message_stop", ""));
}

static void test_anthropic_answer(void **state) {
    (void)state;
#define A_HEAD "{\"id\":\"ID-1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":["
#define A_USAGE                                                                                                        \
    ",\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,\"cache_creation_input_tokens\":0,\"output_"         \
    "tokens\":5}}"
    static const script two[] = {{TD_CHAT_CONTENT, 0, "a"},
                                 {TD_CHAT_REASONING, 0, "b"},
                                 {TD_CHAT_REASONING_BREAK, 0, "\n\n"},
                                 {TD_CHAT_REASONING, 0, "c"}};
    expect_answer(msg_read_anthropic, "{" U "}", agent, 6, MSG_STOP_MODEL, NULL,
                  A_HEAD
                  "{\"type\":\"thinking\",\"thinking\":\"Need a look\",\"signature\":\"\"},{\"type\":\"text\","
                  "\"text\":\"One moment.\"},{\"type\":\"tool_use\",\"id\":\"toolu_X\",\"name\":\"find\",\"input\":"
                  "{\"q\":\"red fox\"}}],\"stop_reason\":\"tool_use\",\"stop_sequence\":null" A_USAGE);
    expect_answer(msg_read_anthropic, "{" U "}", NULL, 0, MSG_STOP_CONTEXT, NULL,
                  A_HEAD "{\"type\":\"text\",\"text\":\"\"}],\"stop_reason\":\"model_context_window_exceeded\","
                         "\"stop_sequence\":null" A_USAGE);
    expect_answer(
        msg_read_anthropic, "{" U ",'thinking':{'type':'enabled','display':'omitted'}}", two, 4, MSG_STOP_WORD, "EN\"D",
        A_HEAD "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"},"
               "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}],\"stop_reason\":"
               "\"stop_sequence\",\"stop_sequence\":\"EN\\\"D\"" A_USAGE);
    /* A call that was cut has no object. */
    expect_answer(msg_read_anthropic, "{" U "}", agent + 2, 2, MSG_STOP_LENGTH, NULL,
                  A_HEAD "{\"type\":\"tool_use\",\"id\":\"toolu_X\",\"name\":\"find\",\"input\":{}}],\"stop_reason\":"
                         "\"max_tokens\",\"stop_sequence\":null" A_USAGE);
}

/* Every event is JSON, the sequence has no gaps, each item opens and closes, and the last event repeats the items. */
static void test_responses_stream(void **state) {
    (void)state;
    static const char *const names[] = {"response.created",
                                        "response.in_progress",
                                        "response.output_item.added",
                                        "response.content_part.added",
                                        "response.reasoning_text.delta",
                                        "response.reasoning_text.done",
                                        "response.content_part.done",
                                        "response.output_item.done",
                                        "response.output_item.added",
                                        "response.content_part.added",
                                        "response.output_text.delta",
                                        "response.output_text.done",
                                        "response.content_part.done",
                                        "response.output_item.done",
                                        "response.output_item.added",
                                        "response.function_call_arguments.delta",
                                        "response.function_call_arguments.delta",
                                        "response.function_call_arguments.done",
                                        "response.output_item.done",
                                        "response.completed"};
    static const int items[] = {-1, -1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, -1};
    char *got = write_answer(msg_read_responses, "{'input':'q','stream':true,'temperature':0.5}", agent, 6,
                             MSG_STOP_MODEL, NULL);
    td_arena *a = td_arena_create(0);
    const td_json *v = NULL, *done[3] = {NULL};
    char *at = got;
    for (int i = 0; i < 20; i++) {
        char *data = strstr(at, "\ndata: "), *end = strstr(at, "\n\n");
        int64_t n = -1;
        assert_true(data && end);
        assert_true(strncmp(at, "event: ", 7) == 0 && (size_t)(data - at) == 7 + strlen(names[i]));
        assert_memory_equal(at + 7, names[i], strlen(names[i]));
        data += 7;
        assert_int_equal(td_json_parse(&v, a, data, (size_t)(end - data), TD_JSON_REJECT, NULL), TD_OK);
        assert_true(td_json_is_string(td_json_get(v, "type"), names[i]));
        assert_true(td_json_int(td_json_get(v, "sequence_number"), &n) && n == i);
        const td_json *index = td_json_get(v, "output_index"), *item = td_json_get(v, "item");
        assert_true(items[i] < 0 ? !index : td_json_int(index, &n) && n == items[i]);
        if (strcmp(names[i], "response.output_item.done") == 0) done[items[i]] = item;
        at = end + 2;
    }
    assert_string_equal(at, "");
    const td_json *r = td_json_get(v, "response"), *output = td_json_get(r, "output"), *item = output->first;
    assert_int_equal(output->n, 3);
    for (int i = 0; i < 3; i++, item = item->next) assert_true(td_json_equal(item, done[i]));
    assert_true(td_json_is_string(td_json_get(output->last, "arguments"), "{\"q\":\"red fox\"}"));
    assert_true(td_json_is_string(td_json_get(r, "status"), "completed"));
    double t = 0;
    assert_true(td_json_double(td_json_get(r, "temperature"), &t) && t == 0.5);
    td_arena_destroy(a);
    free(got);
}

static void test_responses_answer(void **state) {
    (void)state;
    char *got = write_answer(msg_read_responses, "{'input':'q'}", agent, 4, MSG_STOP_LENGTH, NULL);
    td_arena *a = td_arena_create(0);
    const td_json *v = NULL;
    assert_int_equal(td_json_parse(&v, a, got, strlen(got), TD_JSON_REJECT, NULL), TD_OK);
    const td_json *output = td_json_get(v, "output");
    assert_int_equal(output->n, 3);
    assert_true(td_json_is_string(td_json_get(v, "status"), "incomplete"));
    assert_true(td_json_is_string(td_json_get(td_json_get(v, "incomplete_details"), "reason"), "max_output_tokens"));
    assert_true(td_json_is_string(td_json_get(output->first, "status"), "completed"));
    assert_true(td_json_is_string(td_json_get(output->last, "status"), "incomplete"));
    assert_true(td_json_is_string(td_json_get(output->last, "arguments"), "{\"q\":\"re"));
    assert_true(td_json_is_string(td_json_get(output->last, "call_id"), "call_X"));
    td_arena_destroy(a);
    free(got);
}

static void test_errors(void **state) {
    (void)state;
    td_buf out = {0};
    assert_true(msg_write_error(&out, MSG_CHAT, 400, "no \"x\"", "messages", NULL, NULL));
    assert_string_equal(out.data,
                        "{\"error\":{\"code\":400,\"message\":\"no \\\"x\\\"\",\"type\":\"invalid_request_error\","
                        "\"param\":\"messages\"}}");
    td_buf_clear(&out);
    assert_true(msg_write_error(&out, MSG_CHAT, 400, "big", NULL, ",\"n_prompt_tokens\":9,\"n_ctx\":5", NULL));
    assert_string_equal(out.data, "{\"error\":{\"code\":400,\"message\":\"big\",\"type\":\"exceed_context_size_error\","
                                  "\"param\":null,\"n_prompt_tokens\":9,\"n_ctx\":5}}");
    td_buf_clear(&out);
    assert_true(msg_write_error(&out, MSG_ANTHROPIC, 503, "busy", NULL, NULL, "req_1"));
    assert_string_equal(out.data, "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"},"
                                  "\"request_id\":\"req_1\"}");
    td_buf_free(&out);
    static const struct {
        int status;
        const char *openai, *anthropic;
    } rows[] = {{401, "authentication_error", "authentication_error"},
                {404, "not_found_error", "not_found_error"},
                {413, "invalid_request_error", "request_too_large"},
                {429, "rate_limit_error", "rate_limit_error"},
                {500, "server_error", "api_error"},
                {501, "not_supported_error", "api_error"},
                {503, "unavailable_error", "overloaded_error"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_string_equal(msg_error_type(MSG_CHAT, rows[i].status), rows[i].openai);
        assert_string_equal(msg_error_type(MSG_ANTHROPIC, rows[i].status), rows[i].anthropic);
    }
}

static void test_stream_errors(void **state) {
    (void)state;
    static reader *const readers[] = {msg_read_chat, msg_read_anthropic, msg_read_responses};
    static const char *const bodies[] = {"{" U ",'stream':true}", "{" U ",'stream':true}",
                                         "{'input':'q','stream':true}"};
    static const char *const want[] = {"data: {\"error\":{\"code\":500", "event: error\ndata: {\"type\":\"error\"",
                                       "event: response.failed\n"};
    for (int i = 0; i < 3; i++) {
        body b = read_body(readers[i], bodies[i], &plain);
        td_buf out = {0};
        msg_writer w;
        msg_writer_init(&w, &b.r, &head, 0, &out);
        assert_true(msg_writer_begin(&w, &usage));
        assert_true(msg_writer_event(&w, &(td_chat_event){TD_CHAT_CONTENT, 0, {"hi", 2}}));
        assert_true(msg_writer_fail(&w, 500, "lost", "req_1"));
        assert_non_null(strstr(out.data, want[i]));
        assert_null(strstr(out.data, "[DONE]"));
        msg_writer_free(&w);
        td_buf_free(&out);
        body_free(&b);
    }
}

static void test_ids_are_unique(void **state) {
    (void)state;
    char a[64], b[64];
    msg_new_id(a, "call_", 24);
    msg_new_id(b, "call_", 24);
    assert_int_equal(strlen(a), 29);
    assert_string_not_equal(a, b);
    assert_int_equal(strspn(a, "_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"), 29);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_request),      cmocka_unit_test(test_chat_refusals),
        cmocka_unit_test(test_thinking_switches), cmocka_unit_test(test_anthropic_messages),
        cmocka_unit_test(test_anthropic_request), cmocka_unit_test(test_client_noise),
        cmocka_unit_test(test_responses_request), cmocka_unit_test(test_chat_stream),
        cmocka_unit_test(test_chat_answer),       cmocka_unit_test(test_anthropic_stream),
        cmocka_unit_test(test_anthropic_answer),  cmocka_unit_test(test_responses_stream),
        cmocka_unit_test(test_responses_answer),  cmocka_unit_test(test_errors),
        cmocka_unit_test(test_stream_errors),     cmocka_unit_test(test_ids_are_unique),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
