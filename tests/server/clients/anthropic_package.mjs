// The official Anthropic package for JavaScript: `node anthropic_package.mjs URL KEY [TEST…]`, run by clients.sh.
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { assert, busy, idle, key, rejects, run, until, url } from "./common.mjs";

const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0, timeout: 120000 });
const model = "claude-any";
const messages = [{ role: "user", content: "What is the capital of France?" }];
const greedy = { model, messages, temperature: 0, max_tokens: 200 };
const endless = { model, messages, ignore_eos: true, max_tokens: 3500 };
const timer = { name: "start_timer", description: "Starts a timer for some minutes.",
  input_schema: { type: "object", properties: { duration: { type: "integer" } }, required: ["duration"] } };
const askTimer = [{ role: "user", content: "Set a timer for 6 minutes." }];
const textOf = m => m.content.filter(b => b.type === "text").map(b => b.text).join("");

async function toolRound(stream, more) {
  const ask = list => {
    const body = { ...greedy, messages: list, tools: [timer], ...more };
    return stream ? client.messages.stream(body).finalMessage() : client.messages.create(body);
  };
  const r = await ask(askTimer), use = r.content.at(-1);
  assert.deepEqual([r.stop_reason, use.type, use.name, use.input], ["tool_use", "tool_use", "start_timer", { duration: 6 }]);
  const end = await ask([...askTimer, { role: "assistant", content: r.content },
    { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "ok" }] }]);
  assert.equal(end.stop_reason, "end_turn");
  assert(textOf(end).includes("6"), textOf(end));
  return textOf(end);
}

await run({
  async models() {
    const found = (await client.models.list()).data[0];
    assert.equal((await client.models.retrieve(found.id)).id, found.id);
  },
  async messages() {
    const r = await client.messages.create(greedy);
    const s = client.messages.stream(greedy);
    let text = "";
    s.on("text", t => { text += t; });
    const final = await s.finalMessage();
    assert.equal(text, textOf(r));
    assert.deepEqual([final.stop_reason, final.usage.output_tokens], [r.stop_reason, r.usage.output_tokens]);
    const n = await client.messages.countTokens({ model, messages });
    assert.equal(n.input_tokens, r.usage.input_tokens + r.usage.cache_read_input_tokens);
    return text;
  },
  async thinking() {
    const ask = { ...greedy, max_tokens: 2000, thinking: { type: "enabled", budget_tokens: 1024 } };
    const r = await client.messages.create(ask), final = await client.messages.stream(ask).finalMessage();
    assert.deepEqual(r.content.map(b => b.type), ["thinking", "text"]);
    assert.deepEqual(final.content.map(b => [b.type, b.text, b.thinking]), r.content.map(b => [b.type, b.text, b.thinking]));
    return r.content[0].thinking;
  },
  async tools() {
    const text = await toolRound(false);
    assert.equal(await toolRound(true), text);
    await toolRound(true, { thinking: { type: "enabled", budget_tokens: 1024 } });
    return text;
  },
  async tool_runner() {
    const given = [];
    const tool = betaZodTool({ name: "start_timer", description: timer.description, inputSchema: z.object({ duration: z.number().int() }),
      run: a => { given.push(a.duration); return "ok"; } });
    const end = await client.beta.messages.toolRunner({ ...greedy, messages: askTimer, tools: [tool] });
    assert.deepEqual(given, [6]);
    assert.equal(end.stop_reason, "end_turn");
    return textOf(end);
  },
  async structured() {
    const form = zodOutputFormat(z.object({ city: z.enum(["Paris", "Oslo"]), large: z.boolean() }));
    const r = await client.messages.parse({ ...greedy, output_config: { format: form } });
    assert.equal(typeof r.parsed_output.large, "boolean");
    return r.parsed_output;
  },
  async errors() {
    const e = await rejects(Anthropic.BadRequestError, 400, client.messages.create({ ...greedy, messages: [] }), "messages");
    assert.equal(e.error.error.type, "invalid_request_error");
    assert(e.requestID);
    const long = [{ role: "user", content: "a ".repeat(1e6) }];
    await rejects(Anthropic.BadRequestError, 400, client.messages.create({ ...greedy, messages: long, stream: true }), "prompt is too long: ");
    await rejects(Anthropic.NotFoundError, 404, client.models.retrieve("none"));
    const stranger = new Anthropic({ baseURL: url, apiKey: "wrong", maxRetries: 0 });
    await rejects(Anthropic.AuthenticationError, 401, stranger.messages.create(greedy), "Invalid API Key");
  },
  async timeout() {
    await rejects(Anthropic.APIConnectionTimeoutError, undefined, client.messages.create(endless, { timeout: 50 }));
    await idle();
  },
  async abort() {
    const s = await client.messages.create({ ...endless, stream: true });
    for await (const _ of s) break;
    await idle();
    const t = client.messages.stream(endless);
    await until(busy, 5, "never busy");
    t.abort();
    await rejects(Anthropic.APIUserAbortError, undefined, t.done());
    await idle();
  },
  async too_many() {
    const running = [];
    for (let i = 0; i < 2; i++) running.push(await client.messages.create({ ...endless, stream: true }));
    await until(async () => (await busy()) === 2, 5, "never busy");
    const settled = Promise.allSettled(Array.from({ length: 8 }, () => client.messages.create({ ...greedy, max_tokens: 4 })));
    await new Promise(r => setTimeout(r, 1000));
    running.forEach(s => s.controller.abort());
    const refused = (await settled).filter(r => r.status === "rejected");
    assert.equal(refused.length, 6);
    assert(refused.every(r => r.reason instanceof Anthropic.RateLimitError), String(refused[0].reason));
    await idle();
  },
});
