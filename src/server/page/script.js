// The page: one conversation against /v1/chat/completions. With "tandem": true the stream also says which tokens the
// drafter had proposed; from that come the tint, the strip of rounds and the figures.

const $ = id => document.getElementById(id);
const base = location.pathname.replace(/index\.html$/, "").replace(/\/*$/, "/");
const fields = ["system", "thinking", "max_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty",
  "speculative", "n_max", "tools", "theme"];
const numbers = ["max_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty"];
const exampleTools = [{ type: "function", function: { name: "start_timer", description: "Starts a timer for some minutes.",
  parameters: { type: "object", properties: { duration: { type: "integer" } }, required: ["duration"] } } }];

// What is sent: role, content and so on. Answers also carry what is shown: answer and thought (Tinted), timings, note, error.
let messages = [];
let running = null; // AbortController of the answer that comes in
let rounds = []; // {accepted, rejected} for the strip
let modelId = "";

function button(text, action, label) {
  const b = element("button", "", text);
  b.type = "button";
  if (label) b.setAttribute("aria-label", label);
  b.addEventListener("click", action);
  return b;
}

async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = element("textarea"); // pages without TLS have no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function copyButton(text) {
  const b = button("Copy", () => copyText(text).then(() => {
    b.textContent = "Copied";
    setTimeout(() => { b.textContent = "Copy"; }, 1500);
  }, () => { b.textContent = "Not allowed"; }));
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

function restoreChat() {
  const list = parsed(store("sessionStorage", "tandem-chat"), []);
  messages = Array.isArray(list) ? list : [];
  for (const m of messages)
    if (m.role === "assistant") {
      m.answer = new Tinted(m.answer);
      m.thought = new Tinted(m.thought);
    }
}

// ---- which characters were drafted

// Text arrives as deltas, the flags as tokens behind them: both say the same characters in the same order, except for
// markers that only the tokens have. Each delta is looked up in the tokens' text and takes over their flags.
class Flags {
  constructor() { this.raw = ""; this.marks = ""; this.at = 0; this.waiting = []; }
  wait(tinted, text) {
    this.waiting.push({ tinted, from: tinted.text.length, text });
    tinted.add(text);
  }
  add(tokens) {
    for (const t of tokens) {
      this.raw += t.t;
      this.marks += (t.d ? "1" : "0").repeat(t.t.length);
    }
    let left = [];
    for (const w of this.waiting) {
      const at = this.raw.indexOf(w.text, this.at);
      if (at < 0) {
        left.push(w);
        continue;
      }
      w.tinted.mark(w.from, this.marks.slice(at, at + w.text.length));
      this.at = at + w.text.length;
      left = []; // what came earlier and was not found (a character in pieces) stays without a tint
    }
    this.waiting = left;
  }
}

// ---- messages on the screen

function keyForm(label, then) {
  const row = element("form", "ask"), input = element("input"), give = button(label, () => row.requestSubmit());
  input.type = "password";
  input.autocomplete = "off";
  input.placeholder = "API key";
  input.setAttribute("aria-label", "API key");
  row.addEventListener("submit", e => {
    e.preventDefault();
    $("key").value = input.value;
    saveSettings();
    defaults();
    then();
  });
  row.append(input, give);
  return row;
}

function resultForm(m, call) {
  const row = element("form", "ask"), input = element("input");
  input.placeholder = "Result of this call";
  input.setAttribute("aria-label", "Result of " + call.function.name);
  row.addEventListener("submit", e => {
    e.preventDefault();
    messages.push({ role: "tool", tool_call_id: call.id, content: input.value });
    if (m.tool_calls.some(c => !resultOf(c))) show(); else answer();
  });
  row.append(input, button("Give result", () => row.requestSubmit()));
  return row;
}

const resultOf = call => messages.find(x => x.role === "tool" && x.tool_call_id === call.id);

function callCard(m, call, last) {
  const card = element("div", "call"), head = element("div", "head", "Calls "), known = resultOf(call);
  let args = call.function.arguments;
  try { args = JSON.stringify(JSON.parse(args), null, 2); } catch (e) { /* still coming in */ }
  head.append(element("b", "", call.function.name));
  card.append(head, element("pre", "", args));
  if (known) {
    const result = element("div", "result");
    result.append(element("div", "head", "Result"), element("pre", "", known.content));
    card.append(result);
  } else if (last && !running && !m.error) card.append(resultForm(m, call));
  return card;
}

function part(box, name, make) {
  if (!box.parts) box.parts = {};
  if (!box.parts[name]) box.append(box.parts[name] = make());
  return box.parts[name];
}

function fillThought(box, m, busy) {
  const d = part(box, "thought", () => {
    const e = element("details");
    e.append(element("summary"), element("div", "text"));
    return e;
  });
  d.hidden = !m.thought.text;
  if (d.hidden) return;
  d.firstChild.textContent = busy && !m.answer.text ? "Thinking\u2026" : m.thoughtMs ? "Thought for " + seconds(m.thoughtMs) : "Thought";
  render(d.lastChild, m.thought, copyButton);
}

function fill(m) {
  const last = messages.filter(x => x.role === "assistant").pop() === m, busy = !!running && last;
  const box = m.box || (m.box = element("div", "assistant"));
  box.setAttribute("aria-busy", String(busy));
  fillThought(box, m, busy);
  const text = part(box, "text", () => element("div", "text"));
  render(text, m.answer, copyButton);
  text.classList.toggle("wait", busy);
  const rest = part(box, "rest", () => element("div"));
  if (busy && rest.textContent === "" && !m.tool_calls) return box;
  rest.textContent = "";
  for (const c of m.tool_calls || []) rest.append(callCard(m, c, last));
  if (m.error) rest.append(failureCard(m, last));
  const foot = element("div", "foot");
  if (!busy && m.answer.text) foot.append(copyButton(m.answer.text));
  if (last && !busy) foot.append(button("Retry", retry));
  if (last && !busy) foot.append(button("Edit", edit, "Edit the question"));
  if (m.note) foot.append(element("span", "", m.note));
  if (foot.childNodes.length) rest.append(foot);
  return box;
}

function failureCard(m, last) {
  const card = element("div", "failure", m.error);
  card.setAttribute("role", "alert");
  if (m.status === 401 && last) card.append(keyForm("Use this key", retry));
  return card;
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
  enable();
}

function enable() {
  $("send").hidden = !!running;
  $("stop").hidden = !running;
  $("send").disabled = !$("input").value.trim();
}

const distance = () => $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight;

let frame = 0;
function soon(m) { // at most once per frame
  if (frame) return;
  frame = requestAnimationFrame(() => {
    frame = 0;
    const near = distance() < 80;
    fill(m);
    if (near) $("log").scrollTop = $("log").scrollHeight;
    drawStrip();
  });
}

// ---- the picture of speculation

// A round ends with a token of the model's own, or with the answer. Their number is returned.
function countRounds(tokens, rejected) {
  const before = rounds.length;
  let accepted = 0;
  for (const t of tokens) {
    if (t.d) { accepted++; continue; }
    rounds.push({ accepted, rejected: 0 });
    accepted = 0;
  }
  if (accepted) rounds.push({ accepted, rejected: 0, cut: true });
  const n = rounds.length - before;
  if (n) rounds[rounds.length - 1].rejected = Math.max(0, rejected);
  if (rounds.length > 600) rounds = rounds.slice(-600);
  return n;
}

// One bar per round, from below: the model's own token, drafts that were accepted, drafts that were not.
function drawStrip() {
  const canvas = $("strip"), scale = window.devicePixelRatio || 1;
  const w = canvas.clientWidth, h = canvas.clientHeight;
  if (!w || !h) return;
  canvas.width = w * scale;
  canvas.height = h * scale;
  const c = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const colours = ["--soft", "--tint-line", "--miss"].map(name => style.getPropertyValue(name).trim());
  c.scale(scale, scale);
  const bar = 7, seen = rounds.slice(-Math.floor(w / bar));
  const most = Math.max(4, ...seen.map(r => r.accepted + r.rejected + 1)), unit = Math.min(9, (h - 2) / most);
  seen.forEach((r, i) => {
    let y = h;
    [r.cut ? 0 : 1, r.accepted, r.rejected].forEach((count, kind) => {
      c.fillStyle = c.strokeStyle = colours[kind];
      for (let k = 0; k < count; k++) {
        y -= unit;
        if (kind === 2) c.strokeRect(i * bar + 0.5, y + 1, bar - 2.5, Math.max(1, unit - 2));
        else c.fillRect(i * bar, y + 0.5, bar - 1.5, Math.max(1, unit - 1));
      }
    });
  });
}

const seconds = ms => ms < 1000 ? Math.max(1, Math.round(ms)) + " ms" : (ms / 1000).toFixed(1) + " s";
const rate = r => r.toFixed(r < 10 ? 1 : 0);
const perRound = m => (m.timings.predicted_n / m.rounds).toFixed(2);

function figures(m) {
  const t = m.timings;
  const put = (id, text) => { $(id).textContent = text; };
  put("s-rate", t.predicted_per_second ? rate(t.predicted_per_second) : "\u2013");
  put("s-round", m.rounds ? perRound(m) : "\u2013");
  put("s-depth", t.draft_rounds ? (t.draft_n / t.draft_rounds).toFixed(1) : "\u2013");
  put("s-accept", t.draft_rounds ? Math.round(100 * t.draft_n_accepted / t.draft_n) + " %" : "\u2013");
  put("s-first", t.ttft_ms ? seconds(t.ttft_ms) : "\u2013");
  put("s-prompt", t.cache_n + " / " + (t.prompt_n + t.cache_n));
}

function noteOf(m) {
  const t = m.timings, s = [];
  if (t) s.push(t.predicted_n + " tokens", rate(t.predicted_per_second) + " tokens/s");
  if (t && t.draft_rounds && m.rounds) s.push(perRound(m) + " per round");
  if (m.cut) s.push("cut at the limit");
  if (m.stopped) s.push("stopped");
  return s.join(" \u00b7 ");
}

// ---- asking

function bodyOf() {
  const list = messages.map(m => {
    const o = { role: m.role, content: m.content };
    if (m.tool_call_id) o.tool_call_id = m.tool_call_id;
    if (m.tool_calls && m.tool_calls.length) o.tool_calls = m.tool_calls;
    if (m.tool_calls && m.thought && m.thought.text) o.reasoning_content = m.thought.text; // thoughts stay within a turn
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
  if (r.status === 401) return "This server asks for an API key" + ($("key").value ? ", and does not know the one that was given." : ".");
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
        if (line === "data: [DONE]") yield { done: true };
        else if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}

function takeCalls(m, list) {
  for (const c of list) {
    m.tool_calls = m.tool_calls || [];
    const call = m.tool_calls[c.index] || (m.tool_calls[c.index] = { id: "", type: "function", function: { name: "", arguments: "" } });
    if (c.id) call.id = c.id;
    if (c.function && c.function.name) call.function.name += c.function.name;
    if (c.function && c.function.arguments) call.function.arguments += c.function.arguments;
  }
}

function take(m, flags, o, seen) {
  if (o.error) m.error = o.error.message || "The server reported an error";
  for (const choice of o.choices || []) {
    const d = choice.delta || {};
    if (d.reasoning_content) {
      seen.thinking = seen.thinking || performance.now();
      flags.wait(m.thought, d.reasoning_content);
    }
    if ((d.content || d.tool_calls) && seen.thinking && !m.thoughtMs) m.thoughtMs = performance.now() - seen.thinking;
    if (d.content) flags.wait(m.answer, d.content);
    takeCalls(m, d.tool_calls || []);
    if (choice.finish_reason) seen.finished = true;
    if (choice.finish_reason === "length") m.cut = true;
  }
  if (o.tandem) {
    const t = o.timings || {}, n = t.draft_n || 0, a = t.draft_n_accepted || 0;
    m.rounds += countRounds(o.tandem, n - seen.n - (a - seen.a));
    seen.n = n;
    seen.a = a;
    flags.add(o.tandem);
  }
  if (o.timings) {
    m.timings = o.timings;
    figures(m);
  }
}

async function receive(m, body) {
  const flags = new Flags(), seen = { n: 0, a: 0 };
  try {
    const r = await fetch(base + "v1/chat/completions",
      { method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal });
    if (!r.ok) {
      m.status = r.status;
      m.error = await failure(r);
      return;
    }
    for await (const o of events(r)) {
      take(m, flags, o, seen);
      soon(m);
    }
    if (!seen.finished && !m.error) m.error = "The server ended the answer early.";
  } catch (e) {
    if (e.name === "AbortError") m.stopped = true;
    else {
      m.error = "The connection to the server is lost. Retry when it is back.";
      connect();
    }
  }
}

async function answer() {
  if (running || !toolsValid()) return;
  const body = bodyOf(), m = { role: "assistant", content: "", answer: new Tinted(), thought: new Tinted(), rounds: 0 };
  messages.push(m);
  running = new AbortController();
  const mine = running;
  show();
  await receive(m, body);
  if (running === mine) running = null;
  m.content = m.answer.text;
  m.note = noteOf(m);
  if (!messages.includes(m)) return; // a new chat was begun
  const near = distance() < 80;
  if (m.tool_calls) show(); else fill(m);
  if (near) $("log").scrollTop = $("log").scrollHeight;
  enable();
  saveChat();
  drawStrip();
  if (!document.activeElement || document.activeElement === document.body) $("input").focus();
}

function toolsError() {
  const text = $("tools").value.trim();
  if (!text) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "The tools must be a JSON array.";
  } catch (e) {
    return "The tools are not JSON: " + e.message;
  }
}

function toolsValid() {
  const bad = toolsError();
  $("tools").classList.toggle("bad", !!bad);
  $("tools-error").hidden = !bad;
  $("tools-error").textContent = bad;
  if (bad) openSettings(true);
  return !bad;
}

function retry() {
  while (messages.length && messages[messages.length - 1].role === "assistant") messages.pop();
  if (messages.length) answer();
}

// Takes the last question and what followed from the conversation and puts it into the box.
function edit() {
  while (messages.length && messages[messages.length - 1].role !== "user") messages.pop();
  const m = messages.pop();
  if (m) $("input").value = m.content;
  show();
  grow();
  saveChat();
  $("input").focus();
}

function send() {
  const text = $("input").value.trim();
  if (!text || running || !toolsValid()) return;
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
  enable();
}

function newChat() {
  if (running) running.abort();
  running = null;
  messages = [];
  rounds = [];
  for (const e of document.querySelectorAll("dd")) e.textContent = "\u2013";
  saveChat();
  show();
  drawStrip();
  $("input").focus();
}

function openSettings(open) {
  $("settings").hidden = !open;
  $("open-settings").setAttribute("aria-expanded", String(open));
  drawStrip();
}

// ---- the server's state: asked for until it answers, then every few seconds while the page is seen

let timer = 0;
async function connect() {
  clearTimeout(timer);
  let ready = false, name = "no answer from the server";
  try {
    const r = await fetch(base + "v1/models", { headers: headers() });
    if (r.ok) modelId = (await r.json()).data[0].id;
    ready = r.ok && (await fetch(base + "health")).ok;
    name = ready ? modelId : "loading\u2026";
  } catch (e) { /* it is not there */ }
  if ($("model-name").textContent !== name) $("model-name").textContent = name;
  const was = $("dot").className;
  $("dot").className = ready ? "ready" : name.startsWith("load") ? "" : "down";
  if (ready && was !== "ready") defaults();
  timer = setTimeout(() => document.hidden ? connectLater() : connect(), ready ? 5000 : 1000);
}

function connectLater() {
  document.addEventListener("visibilitychange", connect, { once: true });
}

// What the server uses where nothing is set; they only fill placeholders.
async function defaults() {
  try {
    const r = await fetch(base + "props", { headers: headers() });
    if (!r.ok) return;
    const p = (await r.json()).default_generation_settings.params;
    for (const f of ["temperature", "top_k", "top_p", "min_p", "repeat_penalty"])
      if (p[f] !== undefined) $(f).placeholder = String(Math.round(p[f] * 1000) / 1000);
  } catch (e) { /* shown by the state above */ }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function applyTheme() {
  document.documentElement.dataset.theme = $("theme").value || (dark.matches ? "dark" : "light");
  drawStrip();
}

// ---- beginning

$("form").addEventListener("submit", e => { e.preventDefault(); send(); });
$("input").addEventListener("keydown", e => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
});
$("input").addEventListener("input", grow);
document.addEventListener("keydown", e => {
  if (e.key !== "Escape") return;
  if (running) running.abort();
  else if (!$("settings").hidden) {
    openSettings(false);
    $("open-settings").focus();
  }
});
$("stop").addEventListener("click", () => { if (running) running.abort(); });
$("tint").addEventListener("change", () => document.body.classList.toggle("plain", !$("tint").checked));
$("new").addEventListener("click", newChat);
$("open-settings").addEventListener("click", () => openSettings($("settings").hidden));
$("close-settings").addEventListener("click", () => {
  openSettings(false);
  $("open-settings").focus();
});
$("example-tools").addEventListener("click", () => {
  $("tools").value = JSON.stringify(exampleTools, null, 1);
  $("tools").dispatchEvent(new Event("change"));
});
$("reset").addEventListener("click", () => {
  for (const f of fields) $(f).value = "";
  saveSettings();
  applyTheme();
});
$("log").addEventListener("scroll", () => { $("down").hidden = distance() < 200; });
$("down").addEventListener("click", () => { $("log").scrollTop = $("log").scrollHeight; });
for (const b of $("ideas").children)
  b.addEventListener("click", () => {
    $("input").value = b.textContent;
    send();
  });
for (const f of fields.concat("key")) $(f).addEventListener("change", saveSettings);
$("tools").addEventListener("change", toolsValid);
$("theme").addEventListener("change", applyTheme);
window.addEventListener("resize", drawStrip);
dark.addEventListener("change", applyTheme);

const settings = parsed(store("localStorage", "tandem-settings"), {});
for (const f of fields) if (typeof settings[f] === "string") $(f).value = settings[f];
$("key").value = store("sessionStorage", "tandem-key") || "";
restoreChat();
applyTheme();
connect();
show();
