// The page: one conversation against /v1/chat/completions. With "tandem": true the stream also says which tokens the
// drafter had proposed; from that come the tint, the strip of rounds and the figures. Everything received is put in as
// text, never as HTML.
"use strict";

const $ = id => document.getElementById(id);
const base = location.pathname.replace(/index\.html$/, "").replace(/\/*$/, "/");
const fields = ["system", "thinking", "max_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty",
  "speculative", "n_max", "tools"];
const numbers = ["max_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty"];

let messages = []; // what is sent: role, content and so on; answers also carry runs, thought, stats, error for the screen
let running = null; // AbortController of the answer that comes in
let rounds = []; // {accepted, rejected} for the strip
let modelId = "";

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

function button(text, action) {
  const b = element("button", "", text);
  b.type = "button";
  b.addEventListener("click", action);
  return b;
}

// ---- storage: none is needed for the page to work

function store(kind, name, value) {
  try {
    if (value === undefined) return window[kind].getItem(name);
    window[kind].setItem(name, value);
  } catch (e) { /* private window, or full */ }
  return null;
}

function saveSettings() {
  const o = {};
  for (const f of fields) if ($(f).value !== "") o[f] = $(f).value;
  store("localStorage", "tandem-settings", JSON.stringify(o));
  store("sessionStorage", "tandem-key", $("key").value);
}

function saveChat() {
  store("sessionStorage", "tandem-chat", JSON.stringify(messages, (k, v) => k === "box" ? undefined : v));
}

function parsed(text, fallback) {
  try { return JSON.parse(text) || fallback; } catch (e) { return fallback; }
}

// ---- runs of text that are drafted or not

// Text arrives as deltas, the flags as tokens behind them: both say the same characters in the same order, except for
// markers that only the tokens have. Each delta is looked up in the tokens' text and takes over their flags.
class Flags {
  constructor() { this.raw = ""; this.drafted = []; this.at = 0; this.waiting = []; }
  add(tokens) {
    for (const t of tokens) {
      for (let i = 0; i < t.t.length; i++) this.drafted.push(t.d);
      this.raw += t.t;
    }
    this.waiting = this.waiting.filter(w => !this.settle(w));
  }
  settle(run) {
    const at = this.raw.indexOf(run.text, this.at);
    if (at < 0) return false;
    run.flags = this.drafted.slice(at, at + run.text.length);
    this.at = at + run.text.length;
    return true;
  }
}

function paint(into, runs) {
  into.textContent = "";
  let text = "", tinted = false;
  const flush = () => {
    if (text) into.append(tinted ? element("span", "d", text) : text);
    text = "";
  };
  for (const r of runs)
    for (let i = 0; i < r.text.length; i++) {
      const d = !!(r.flags && r.flags[i]);
      if (d !== tinted) flush();
      tinted = d;
      text += r.text[i];
    }
  flush();
}

const joined = runs => runs.map(r => r.text).join("");

// Code blocks, `code` and **bold**: enough to read an answer without a library.
function prose(into, text) {
  into.textContent = "";
  text.split(/^```[^\n]*\n([\s\S]*?)(?:^```[ \t]*\n?|$(?![\s\S]))/m).forEach((part, i) => {
    if (i % 2) {
      const pre = element("pre");
      pre.append(element("code", "", part.replace(/\n$/, "")));
      into.append(pre);
      return;
    }
    for (const bit of part.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
      if (bit.length > 2 && bit[0] === "`") into.append(element("code", "", bit.slice(1, -1)));
      else if (bit.length > 4 && bit.startsWith("**")) into.append(element("b", "", bit.slice(2, -2)));
      else if (bit) into.append(bit);
    }
  });
}

// ---- messages on the screen

function textInto(into, runs, busy) {
  if ($("tint").checked) paint(into, runs);
  else if (busy) into.textContent = joined(runs);
  else prose(into, joined(runs));
}

function callCard(m, call, last) {
  const card = element("div", "call");
  let args = call.function.arguments;
  try { args = JSON.stringify(JSON.parse(args), null, 2); } catch (e) { /* still coming in */ }
  card.append(element("b", "", call.function.name), element("pre", "", args));
  const known = messages.find(x => x.role === "tool" && x.tool_call_id === call.id);
  if (known) {
    card.append(element("pre", "", "= " + known.content));
  } else if (last && !running) {
    const row = element("div", "answer"), input = element("input");
    input.placeholder = "Result of this call";
    input.setAttribute("aria-label", "Result of " + call.function.name);
    const give = () => {
      messages.push({ role: "tool", tool_call_id: call.id, content: input.value });
      const open = m.tool_calls.some(c => !messages.some(x => x.role === "tool" && x.tool_call_id === c.id));
      if (open) show(); else answer();
    };
    input.addEventListener("keydown", e => { if (e.key === "Enter") give(); });
    row.append(input, button("Give result", give));
    card.append(row);
  }
  return card;
}

function fill(m) {
  const last = messages.filter(x => x.role === "assistant").pop() === m, busy = running && last;
  const box = m.box || (m.box = element("div", "assistant"));
  const opened = box.querySelector("details") ? box.querySelector("details").open : false;
  box.textContent = "";
  if (m.thought && m.thought.length) {
    const d = element("details"), body = element("div", "text");
    d.open = opened;
    d.append(element("summary", "", busy && !m.runs.length ? "Thinking\u2026" : "Thoughts"));
    textInto(body, m.thought, busy);
    d.append(body);
    box.append(d);
  }
  const text = element("div", "text");
  textInto(text, m.runs, busy);
  if (busy) text.classList.add("wait");
  box.append(text);
  for (const c of m.tool_calls || []) box.append(callCard(m, c, last));
  if (m.error) box.append(element("div", "error", m.error));
  const foot = element("div", "foot");
  if (last && !running) foot.append(button("Retry", retry));
  if (!busy && joined(m.runs)) foot.append(button("Copy", () => navigator.clipboard && navigator.clipboard.writeText(joined(m.runs))));
  if (m.note) foot.append(element("span", "", m.note));
  if (foot.childNodes.length) box.append(foot);
  return box;
}

function show() {
  const log = $("log");
  $("empty").hidden = messages.length > 0;
  for (const e of [...log.children]) if (e.id !== "empty") e.remove();
  for (const m of messages) {
    if (m.role === "user") log.append(element("div", "user", m.content));
    if (m.role === "assistant") log.append(fill(m));
  }
  log.scrollTop = log.scrollHeight;
}

let frame = 0;
function soon(m) { // at most once per frame
  if (frame) return;
  frame = requestAnimationFrame(() => {
    frame = 0;
    const log = $("log"), near = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    fill(m);
    if (near) log.scrollTop = log.scrollHeight;
    drawStrip();
  });
}

// ---- the picture of speculation

function countRounds(tokens, rejected) {
  let accepted = 0, any = false;
  for (const t of tokens) {
    if (t.d) { accepted++; continue; }
    rounds.push({ accepted, rejected: 0 });
    accepted = 0;
    any = true;
  }
  if (accepted) { rounds.push({ accepted, rejected: 0, cut: true }); any = true; }
  if (any) rounds[rounds.length - 1].rejected = Math.max(0, rejected);
  if (rounds.length > 400) rounds = rounds.slice(-400);
}

function drawStrip() {
  const canvas = $("strip"), scale = window.devicePixelRatio || 1;
  const w = canvas.clientWidth, h = canvas.clientHeight;
  if (!w || !h) return;
  canvas.width = w * scale;
  canvas.height = h * scale;
  const c = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  c.scale(scale, scale);
  const bar = 6, n = Math.floor(w / bar), seen = rounds.slice(-n);
  const most = Math.max(4, ...seen.map(r => r.accepted + r.rejected + 1));
  const unit = Math.min(9, (h - 2) / most);
  seen.forEach((r, i) => {
    let y = h;
    const cell = (count, name, hollow) => {
      for (let k = 0; k < count; k++) {
        y -= unit;
        c.fillStyle = c.strokeStyle = colour(name);
        if (hollow) c.strokeRect(i * bar + 0.5, y + 1, bar - 2, Math.max(1, unit - 2));
        else c.fillRect(i * bar, y + 0.5, bar - 1, Math.max(1, unit - 1));
      }
    };
    if (!r.cut) cell(1, "--soft");
    cell(r.accepted, "--tint-line");
    cell(r.rejected, "--miss", true);
  });
}

function figures(t) {
  if (!t) return;
  const put = (id, text) => { $(id).textContent = text; };
  if (t.predicted_per_second) put("s-rate", t.predicted_per_second.toFixed(t.predicted_per_second < 10 ? 1 : 0));
  if (t.draft_rounds) {
    put("s-round", (1 + t.draft_n_accepted / t.draft_rounds).toFixed(2));
    put("s-accept", Math.round(100 * t.draft_n_accepted / t.draft_n) + " %");
  }
  if (t.ttft_ms) put("s-first", t.ttft_ms < 1000 ? Math.round(t.ttft_ms) + " ms" : (t.ttft_ms / 1000).toFixed(1) + " s");
  put("s-prompt", (t.prompt_n + t.cache_n) + ", " + t.cache_n);
}

function noteOf(t) {
  if (!t) return "";
  let s = t.predicted_n + " tokens, " + t.predicted_per_second.toFixed(1) + " per second";
  if (t.draft_rounds) s += ", " + (1 + t.draft_n_accepted / t.draft_rounds).toFixed(2) + " per round";
  return s;
}

// ---- asking

function bodyOf() {
  const list = messages.map(m => {
    const o = { role: m.role, content: m.content };
    if (m.tool_call_id) o.tool_call_id = m.tool_call_id;
    if (m.tool_calls && m.tool_calls.length) o.tool_calls = m.tool_calls;
    return o;
  });
  if ($("system").value.trim()) list.unshift({ role: "system", content: $("system").value });
  const body = { messages: list, stream: true, tandem: true, stream_options: { include_usage: true } };
  if (modelId) body.model = modelId;
  for (const f of numbers) if ($(f).value !== "" && isFinite($(f).value)) body[f] = Number($(f).value);
  if ($("thinking").value) body.chat_template_kwargs = { enable_thinking: $("thinking").value === "on" };
  if ($("speculative").value === "off") body.speculative = false;
  else if ($("n_max").value !== "") body.speculative = { n_max: Number($("n_max").value) };
  if ($("tools").value.trim()) body.tools = JSON.parse($("tools").value);
  return body;
}

function headers() {
  const h = { "Content-Type": "application/json" };
  if ($("key").value) h.Authorization = "Bearer " + $("key").value;
  return h;
}

async function failure(r) {
  const text = await r.text();
  let said = text;
  try { said = JSON.parse(text).error.message; } catch (e) { /* as it is */ }
  if (r.status === 401) said += ". The API key goes into the settings.";
  return "Error " + r.status + ": " + said;
}

async function* events(r) {
  const reader = r.body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    for (let at; (at = text.indexOf("\n\n")) >= 0; text = text.slice(at + 2))
      for (const line of text.slice(0, at).split("\n"))
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

function take(m, flags, o, seen) {
  if (o.error) m.error = o.error.message || "The server reported an error";
  for (const choice of o.choices || []) {
    const d = choice.delta || {};
    for (const [name, into] of [["reasoning_content", m.thought], ["content", m.runs]]) {
      if (!d[name]) continue;
      const run = { text: d[name] };
      into.push(run);
      flags.waiting.push(run);
    }
    for (const c of d.tool_calls || []) {
      m.tool_calls = m.tool_calls || [];
      const call = m.tool_calls[c.index] || (m.tool_calls[c.index] = { id: "", type: "function", function: { name: "", arguments: "" } });
      if (c.id) call.id = c.id;
      if (c.function && c.function.name) call.function.name += c.function.name;
      if (c.function && c.function.arguments) call.function.arguments += c.function.arguments;
    }
    if (choice.finish_reason === "length") m.cut = true;
  }
  if (o.tandem) {
    const t = o.timings || {}, n = t.draft_n || 0, a = t.draft_n_accepted || 0;
    countRounds(o.tandem, n - seen.n - (a - seen.a));
    seen.n = n;
    seen.a = a;
    flags.add(o.tandem);
  }
  if (o.timings) {
    m.timings = o.timings;
    figures(o.timings);
  }
}

async function answer() {
  if (running) return;
  const bad = $("tools").value.trim() && !parsed($("tools").value, null);
  $("tools").classList.toggle("bad", !!bad);
  if (bad) return;
  const body = bodyOf(), m = { role: "assistant", content: "", runs: [], thought: [] }, flags = new Flags();
  messages.push(m);
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  show();
  try {
    const r = await fetch(base + "v1/chat/completions",
      { method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal });
    if (!r.ok) m.error = await failure(r);
    else {
      const seen = { n: 0, a: 0 };
      for await (const o of events(r)) {
        take(m, flags, o, seen);
        soon(m);
      }
    }
  } catch (e) {
    m.error = e.name === "AbortError" ? "" : "The connection broke: " + e.message;
    if (e.name === "AbortError") m.stopped = true;
  }
  running = null;
  m.content = joined(m.runs);
  m.note = [noteOf(m.timings), m.cut ? "cut at the limit" : "", m.stopped ? "stopped" : ""].filter(Boolean).join(", ");
  $("send").hidden = false;
  $("stop").hidden = true;
  saveChat();
  show();
  drawStrip();
  $("input").focus();
}

function retry() {
  while (messages.length && messages[messages.length - 1].role === "assistant") messages.pop();
  if (messages.length) answer();
}

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  const last = messages[messages.length - 1];
  if (last && last.error && !last.content) messages.pop();
  messages.push({ role: "user", content: text });
  $("input").value = "";
  grow();
  answer();
}

function grow() {
  const e = $("input");
  e.style.height = "auto";
  e.style.height = e.scrollHeight + 2 + "px";
}

// ---- beginning

async function connect() {
  try {
    const r = await fetch(base + "v1/models", { headers: headers() });
    const ready = r.ok && (await fetch(base + "health")).ok;
    if (r.ok) modelId = (await r.json()).data[0].id;
    $("model-name").textContent = modelId || "loading\u2026";
    $("dot").className = ready ? "ready" : "";
    if (!ready) setTimeout(connect, 1000);
    else defaults();
  } catch (e) {
    $("model-name").textContent = "no answer from the server";
    $("dot").className = "down";
    setTimeout(connect, 3000);
  }
}

async function defaults() {
  try {
    const r = await fetch(base + "props", { headers: headers() });
    if (!r.ok) return;
    const p = (await r.json()).default_generation_settings.params;
    for (const f of ["temperature", "top_k", "top_p", "min_p", "repeat_penalty"])
      if (p[f] !== undefined) $(f).placeholder = String(Math.round(p[f] * 1000) / 1000);
  } catch (e) { /* they only fill placeholders */ }
}

$("form").addEventListener("submit", e => { e.preventDefault(); send(); });
$("input").addEventListener("keydown", e => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
});
$("input").addEventListener("input", grow);
$("stop").addEventListener("click", () => running && running.abort());
$("tint").addEventListener("change", show);
$("new").addEventListener("click", () => {
  if (running) running.abort();
  messages = [];
  rounds = [];
  saveChat();
  show();
  drawStrip();
  $("input").focus();
});
$("open-settings").addEventListener("click", () => {
  const s = $("settings");
  s.hidden = !s.hidden;
  $("open-settings").setAttribute("aria-expanded", String(!s.hidden));
  drawStrip();
});
$("reset").addEventListener("click", () => {
  for (const f of fields) $(f).value = "";
  saveSettings();
});
for (const f of fields.concat("key")) $(f).addEventListener("change", saveSettings);
window.addEventListener("resize", drawStrip);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawStrip);

const settings = parsed(store("localStorage", "tandem-settings"), {});
for (const f of fields) if (typeof settings[f] === "string") $(f).value = settings[f];
$("key").value = store("sessionStorage", "tandem-key") || "";
messages = parsed(store("sessionStorage", "tandem-chat"), []);
for (const m of messages) delete m.box;
connect();
show();
drawStrip();
