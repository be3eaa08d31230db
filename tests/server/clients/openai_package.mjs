// The official openai package for JavaScript: `node openai_package.mjs URL KEY [TEST…]`, run by clients.sh.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { assert, busy, idle, key, rejects, run, until, url } from "./common.mjs";

const client = new OpenAI({ baseURL: url + "/v1", apiKey: key, maxRetries: 0, timeout: 120000 });
const chat = client.chat.completions;
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "What is the capital of France?" }];
const greedy = { model, messages, temperature: 0, max_tokens: 200 };
const quiet = { chat_template_kwargs: { enable_thinking: false } };
const endless = { model, messages, ignore_eos: true, max_tokens: 3500 };
const timer = { type: "function", function: { name: "start_timer", description: "Starts a timer for some minutes.",
  parameters: { type: "object", properties: { duration: { type: "integer" } }, required: ["duration"] } } };
const askTimer = [{ role: "user", content: "Set a timer for 6 minutes." }];
const city = z.object({ city: z.enum(["Paris", "Oslo"]), large: z.boolean() });

async function textOf(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  return text;
}

async function toolRound(stream) {
  const ask = { ...greedy, messages: askTimer, tools: [timer] };
  const r = stream ? await chat.stream(ask).finalChatCompletion() : await chat.create(ask);
  assert.equal(r.choices[0].finish_reason, "tool_calls");
  const call = r.choices[0].message.tool_calls[0];
  assert.deepEqual([call.type, call.function.name, JSON.parse(call.function.arguments)], ["function", "start_timer", { duration: 6 }]);
  const follow = { ...ask, messages: [...askTimer, r.choices[0].message, { role: "tool", tool_call_id: call.id, content: "ok" }] };
  const text = stream ? await textOf(await chat.create({ ...follow, stream: true }))
    : (await chat.create(follow)).choices[0].message.content;
  assert(text.includes("6"), text);
  return text;
}

await run({
  async models() {
    assert.equal((await client.models.retrieve(model)).id, model);
  },
  async chat() {
    const r = await chat.create(greedy);
    const text = r.choices[0].message.content;
    assert.equal(await textOf(await chat.create({ ...greedy, stream: true })), text);
    const s = chat.stream({ ...greedy, stream_options: { include_usage: true } });
    assert.equal(await s.finalContent(), text);
    assert.equal((await s.totalUsage()).completion_tokens, r.usage.completion_tokens);
    return text;
  },
  async logprobs() {
    const ask = { ...greedy, max_tokens: 5, logprobs: true, top_logprobs: 3 };
    const rows = (await chat.create(ask)).choices[0].logprobs.content;
    assert(rows.length > 0 && rows.every(p => p.top_logprobs.length === 3 && p.top_logprobs[0].token === p.token));
    const streamed = [];
    for await (const c of await chat.create({ ...ask, stream: true })) streamed.push(...(c.choices[0]?.logprobs?.content ?? []));
    assert.deepEqual(streamed, rows);
  },
  async structured() {
    const ask = { ...greedy, ...quiet, response_format: zodResponseFormat(city, "city") };
    const parsed = (await chat.parse(ask)).choices[0].message.parsed;
    assert.equal(typeof parsed.large, "boolean");
    assert.deepEqual((await chat.stream(ask).finalChatCompletion()).choices[0].message.parsed, parsed);
    return parsed;
  },
  async tools() {
    const text = await toolRound(false);
    assert.equal(await toolRound(true), text);
    return text;
  },
  async tool_runner() {
    for (const stream of [false, true]) {
      const given = [];
      const run_it = { ...timer.function, parse: JSON.parse, function: a => { given.push(a.duration); return "ok"; } };
      const r = chat.runTools({ ...greedy, messages: askTimer, stream, tools: [{ type: "function", function: run_it }] });
      const text = await r.finalContent();
      assert.deepEqual(given, [6]);
      assert(text.includes("6"), text);
    }
  },
  async completions() {
    const ask = { model, prompt: "Once upon a time", max_tokens: 10, temperature: 0 };
    const text = (await client.completions.create(ask)).choices[0].text;
    let streamed = "";
    for await (const c of await client.completions.create({ ...ask, stream: true })) streamed += c.choices[0].text;
    assert.equal(streamed, text);
  },
  async responses() {
    const ask = { model, input: askTimer[0].content, max_output_tokens: 200, temperature: 0,
      tools: [{ type: "function", ...timer.function, strict: false }] };
    const r = await client.responses.create(ask), call = r.output.at(-1);
    assert.deepEqual([call.type, JSON.parse(call.arguments)], ["function_call", { duration: 6 }]);
    const final = await client.responses.stream(ask).finalResponse();
    assert.equal(final.output.at(-1).arguments, call.arguments);
    const input = [...askTimer, ...r.output, { type: "function_call_output", call_id: call.call_id, output: "ok" }];
    const text = (await client.responses.create({ ...ask, input })).output_text;
    assert(text.includes("6"), text);
    let streamed = "";
    for await (const e of await client.responses.create({ ...ask, input, stream: true }))
      if (e.type === "response.output_text.delta") streamed += e.delta;
    assert.equal(streamed, text);
    return text;
  },
  async errors() {
    const e = await rejects(OpenAI.BadRequestError, 400, chat.create({ ...greedy, top_p: "x" }), "top_p");
    assert.equal(e.param, "top_p");
    await rejects(OpenAI.BadRequestError, 400, chat.create({ ...greedy, messages: [] }), "messages");
    const long = [{ role: "user", content: "a ".repeat(1e6) }];
    await rejects(OpenAI.BadRequestError, 400, chat.create({ ...greedy, messages: long, stream: true }), "context size");
    await rejects(OpenAI.NotFoundError, 404, client.models.retrieve("none"));
    const stranger = new OpenAI({ baseURL: url + "/v1", apiKey: "wrong", maxRetries: 0 });
    await rejects(OpenAI.AuthenticationError, 401, stranger.chat.completions.create(greedy), "Invalid API Key");
    const nowhere = new OpenAI({ baseURL: "http://127.0.0.1:9/v1", apiKey: key, maxRetries: 0 });
    await rejects(OpenAI.APIConnectionError, undefined, nowhere.models.list());
  },
  async timeout() {
    await rejects(OpenAI.APIConnectionTimeoutError, undefined, chat.create(endless, { timeout: 50 }));
    await idle();
  },
  async abort() {
    const s = await chat.create({ ...endless, stream: true });
    for await (const _ of s) break;
    await idle();
    const t = chat.stream(endless);
    await until(busy, 5, "never busy");
    t.abort();
    await rejects(OpenAI.APIUserAbortError, undefined, t.done());
    await idle();
  },
  async too_many() {
    const running = [];
    for (let i = 0; i < 2; i++) running.push(await chat.create({ ...endless, stream: true }));
    await until(async () => (await busy()) === 2, 5, "never busy");
    const crowd = Array.from({ length: 8 }, () => chat.create({ ...greedy, max_tokens: 4 }));
    const settled = Promise.allSettled(crowd);
    await new Promise(r => setTimeout(r, 1000));
    running.forEach(s => s.controller.abort());
    const refused = (await settled).filter(r => r.status === "rejected");
    assert.equal(refused.length, 6);
    assert(refused.every(r => r.reason instanceof OpenAI.RateLimitError), String(refused[0].reason));
    await idle();
  },
});
