// The page in Chromium against a server of its own: `node page.mjs TANDEM FOLDER`, run by clients.sh with CHROMIUM set.
// Screenshots go into FOLDER, to be looked at. Every request of the browser must stay at the server.
import { spawn } from "node:child_process";
import fs from "node:fs";
import { chromium } from "playwright-core";
import { assert } from "./common.mjs";

const [tandem, folder, ...chosen] = process.argv.slice(2);
fs.mkdirSync(folder, { recursive: true });

class Server {
  static async start(port, ...flags) {
    const s = new Server();
    s.process = spawn(tandem, ["serve", "--port", String(port), "-np", "2", ...flags], { stdio: ["ignore", "pipe", "pipe"] });
    let log = "";
    await new Promise((resolve, reject) => {
      for (const out of [s.process.stdout, s.process.stderr])
        out.on("data", d => {
          log += d;
          const m = log.match(/ready on 127\.0\.0\.1 port (\d+)/);
          if (m) resolve(s.port = Number(m[1]));
        });
      s.process.on("exit", code => reject(new Error("the server ended with " + code + "\n" + log)));
    });
    s.url = "http://127.0.0.1:" + s.port + "/";
    return s;
  }
  async slots(headers) {
    return (await fetch(this.url + "slots", { headers })).json();
  }
  stop() {
    return new Promise(resolve => {
      this.process.removeAllListeners("exit");
      this.process.on("exit", resolve);
      this.process.kill();
    });
  }
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--headless", "--no-sandbox", "--disable-gpu",
  "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });

/** A page whose requests are watched: another origin fails the test, and so does an error of a script. */
async function open(server, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  page.strange = [];
  context.on("request", r => {
    if (!r.url().startsWith(server.url) && !r.url().startsWith("data:")) page.strange.push(r.url());
  });
  page.on("pageerror", e => page.strange.push(String(e)));
  page.on("console", m => {
    if (m.type() === "error" && !/Failed to load resource/.test(m.text())) page.strange.push(m.text());
  });
  await page.goto(server.url);
  await page.locator("#dot.ready").waitFor();
  return page;
}

async function close(page) {
  assert.deepEqual(page.strange, []);
  await page.context().close();
}

const picture = (page, name) => page.screenshot({ path: folder + "/" + name + ".png" });
const box = page => page.getByRole("textbox", { name: "Message" });
const answers = page => page.locator(".assistant");
const finished = page => page.getByRole("button", { name: "Retry" }).waitFor();

async function settings(page, values) {
  await page.getByRole("button", { name: "Settings", exact: true }).click();
  for (const [name, value] of Object.entries(values)) {
    const e = page.locator("#" + name);
    if (await e.evaluate(x => x.tagName) === "SELECT") await e.selectOption(value);
    else {
      await e.fill(value);
      await e.blur();
    }
  }
  await page.getByRole("button", { name: "Close settings" }).click();
}

async function ask(page, text) {
  await box(page).fill(text);
  await box(page).press("Enter");
  await finished(page);
  return answers(page).last();
}

/** The body of the next chat request. */
const nextBody = async page => (await page.waitForRequest(r => r.url().endsWith("/v1/chat/completions"))).postDataJSON();

const tests = {
  async empty(s) {
    const page = await open(s);
    assert.equal(await page.locator("#model-name").textContent(), "tandem-demo.gguf");
    assert(await page.getByRole("heading", { name: "What would you like to know?" }).isVisible());
    assert(await page.getByRole("button", { name: "Send" }).isDisabled());
    assert(await box(page).evaluate(e => e === document.activeElement), "the box has no focus");
    await picture(page, "empty-light");
    await page.getByRole("button", { name: "What is Tandem?" }).click();
    await finished(page);
    assert((await answers(page).textContent()).includes("Tandem"));
    await close(page);
  },

  async chat(s) {
    const page = await open(s);
    await settings(page, { temperature: "0", thinking: "off" });
    const story = await ask(page, "Tell me a short story about a frog named Elena and a button.");
    const text = await story.locator(".text").last().innerText();
    assert(text.includes("Elena") && text.length > 100, text);
    const tinted = (await story.locator(".d").allInnerTexts()).join("");
    assert(tinted.length > 20 && tinted.length < text.length, "tinted: " + tinted);
    assert(/^\d+ tokens \u00b7 [\d.]+ tokens\/s \u00b7 [\d.]+ per round$/.test(await story.locator(".foot span").innerText()));
    for (const [id, pattern] of [["s-rate", /^[\d.]+$/], ["s-round", /^[1-9]\.\d\d$/], ["s-depth", /^\d\.\d$/], ["s-accept", /^\d+ %$/],
      ["s-first", /^[\d.]+ m?s$/], ["s-prompt", /^\d+ \/ \d+$/]])
      assert.match(await page.locator("#" + id).innerText(), pattern, id);
    const drawn = await page.locator("#strip").evaluate(c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(v => v));
    assert(drawn, "the strip is empty");
    const second = await ask(page, "Write a Python function that multiplies two numbers. Name it product. Use x and y.");
    assert.equal(await second.locator(".code pre").count(), 1);
    await picture(page, "chat-light");
    await page.getByText("Drafts", { exact: true }).first().click();
    assert.equal(await second.locator(".d").first().evaluate(e => getComputedStyle(e).backgroundColor), "rgba(0, 0, 0, 0)");
    await page.reload();
    assert.equal(await answers(page).count(), 2, "the conversation is lost with a reload");
    assert.equal(await answers(page).first().locator(".text").last().innerText(), text);
    await page.getByRole("button", { name: "New chat" }).click();
    assert.equal(await answers(page).count(), 0);
    await close(page);
  },

  async streaming(s) {
    const page = await open(s);
    await settings(page, { temperature: "0", max_tokens: "3000" });
    await page.route("**/v1/chat/completions", r => r.continue({ postData: JSON.stringify({ ...r.request().postDataJSON(), ignore_eos: true }) }));
    await box(page).fill("Tell me a long story.");
    await box(page).press("Enter");
    const lengths = new Set();
    for (let i = 0; i < 200 && lengths.size < 4; i++) {
      lengths.add((await answers(page).textContent().catch(() => "")).length);
      await page.waitForTimeout(10);
    }
    assert(lengths.size >= 4, "the text does not grow while it comes in");
    await page.getByRole("button", { name: "Stop" }).click();
    await finished(page);
    assert.match(await answers(page).locator(".foot span").innerText(), /stopped$/);
    for (let i = 0; (await s.slots()).some(x => x.is_processing); i++) {
      assert(i < 100, "the slot stays busy after stop");
      await page.waitForTimeout(20);
    }
    await picture(page, "stopped");
    await page.unroute("**/v1/chat/completions");
    await page.getByRole("button", { name: "Retry" }).click();
    await page.keyboard.press("Escape");
    await finished(page);
    assert.equal(await answers(page).count(), 1, "retry adds an answer instead of replacing it");
    await page.getByRole("button", { name: "Edit the question" }).click();
    assert.equal(await box(page).inputValue(), "Tell me a long story.");
    assert.equal(await answers(page).count(), 0);
    await close(page);
  },

  async fields(s) {
    const page = await open(s);
    await settings(page, { system: "Be brief.", temperature: "0.5", seed: "7", top_k: "20", top_p: "0.9", min_p: "0.1", repeat_penalty: "1.1",
      max_tokens: "9", speculative: "off", thinking: "on" });
    const sent = nextBody(page);
    await ask(page, "Hello");
    const b = await sent;
    assert.deepEqual(b.messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello" }]);
    assert.deepEqual([b.temperature, b.seed, b.top_k, b.top_p, b.min_p, b.repeat_penalty, b.max_tokens, b.speculative],
      [0.5, 7, 20, 0.9, 0.1, 1.1, 9, false]);
    assert.deepEqual(b.chat_template_kwargs, { enable_thinking: true });
    assert.equal(await page.locator(".assistant .d").count(), 0);
    assert.match(await answers(page).locator(".foot span").innerText(), /cut at the limit/);
    await page.getByRole("button", { name: "Settings", exact: true }).click();
    assert.equal(await page.locator("#temperature").getAttribute("placeholder"), "1");
    await picture(page, "settings-light");
    await page.reload();
    assert.equal(await page.locator("#top_k").inputValue(), "20", "settings are lost with a reload");
    await page.getByRole("button", { name: "Settings", exact: true }).click();
    await page.getByRole("button", { name: "Back to the defaults" }).click();
    assert.equal(await page.locator("#system").inputValue(), "");
    await page.locator("#n_max").fill("2");
    await page.keyboard.press("Tab");
    const again = nextBody(page);
    await ask(page, "Hello");
    assert.deepEqual((await again).speculative, { n_max: 2 });
    await close(page);
  },

  async thinking(s) {
    const page = await open(s);
    await settings(page, { thinking: "on", temperature: "0" });
    const a = await ask(page, "What is the capital of Austria?");
    const thought = a.locator("details");
    assert.match(await thought.locator("summary").innerText(), /^Thought for [\d.]+ m?s$/);
    assert(!(await thought.locator(".text").isVisible()), "the thought is not folded");
    await thought.locator("summary").click();
    assert((await thought.locator(".text").innerText()).length > 5);
    assert((await a.locator("> .text").innerText()).length > 5);
    await picture(page, "thinking");
    await close(page);
  },

  async tools(s) {
    const page = await open(s);
    await settings(page, { thinking: "off", temperature: "0" });
    await page.getByRole("button", { name: "Settings", exact: true }).click();
    await page.locator("#tools").fill("{");
    await page.getByRole("button", { name: "Close settings" }).click();
    assert.match(await page.locator("#tools-error").innerText(), /not JSON/);
    await box(page).fill("Set a timer for 6 minutes.");
    await box(page).press("Enter");
    assert.equal(await page.locator(".user").count(), 0, "asked in spite of tools that are not JSON");
    await page.getByRole("button", { name: "Insert an example" }).click();
    await page.getByRole("button", { name: "Close settings" }).click();
    const a = await ask(page, "Set a timer for 6 minutes.");
    assert.equal(await a.locator(".call b").innerText(), "start_timer");
    assert.deepEqual(JSON.parse(await a.locator(".call pre").innerText()), { duration: 6 });
    await picture(page, "tool-call");
    const sent = nextBody(page);
    await page.getByRole("textbox", { name: "Result of start_timer" }).fill("ok");
    await page.getByRole("textbox", { name: "Result of start_timer" }).press("Enter");
    const b = await sent;
    assert.deepEqual(b.messages.slice(-2).map(m => m.role), ["assistant", "tool"]);
    assert.equal(b.messages.at(-1).tool_call_id, b.messages.at(-2).tool_calls[0].id);
    await page.waitForFunction(() => document.querySelectorAll(".assistant").length === 2);
    await finished(page);
    assert((await answers(page).last().innerText()).includes("6"));
    await picture(page, "tool-result");
    await close(page);
  },

  async markdown(s) {
    const page = await open(s);
    const text = "# Heading\n\nA **bold** word, *one* in italics, `code`, a <b>tag</b> and https://example.org/a?b=1.\n\n- first\n- second\n  1. inner **one**\n" +
      "  2. inner two\n- third\n\n1. one\n2. two\n\n> quoted\n> text\n\n| name | count |\n| --- | ---: |\n| a | 1 |\n| `b` | 2 |\n\n---\n\n```python\n" +
      "def f(x):\n    return \"<script>\" * x  # " + "wide ".repeat(40) + "\n```\n\n2 * 3 * 4 and snake_case_name stay.\nSecond line.\n\n```c\nint open;";
    const chunks = text.match(/[\s\S]{1,7}/g).map((t, i) => [
      { choices: [{ index: 0, delta: { content: t }, finish_reason: null }] }, { choices: [], tandem: [{ t, d: i % 3 !== 0 }] }]).flat();
    chunks.push({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    await page.route("**/v1/chat/completions", r => r.fulfill({ contentType: "text/event-stream",
      body: chunks.map(c => "data: " + JSON.stringify(c) + "\n\n").join("") + "data: [DONE]\n\n" }));
    const a = await ask(page, "Everything at once, please."), shown = a.locator("> .text");
    const count = async x => shown.locator(x).count();
    assert.deepEqual([await count("h3"), await count("strong"), await count("em"), await count(".code"), await count("table"), await count("blockquote"),
      await count("hr"), await count("b"), await count("script")], [1, 2, 1, 2, 1, 1, 1, 0, 0]);
    assert.equal(await shown.locator("ul > li").count(), 3);
    assert.equal(await shown.locator("ul > li > ol > li").count(), 2);
    assert.deepEqual(await shown.locator("td").allInnerTexts(), ["a", "1", "b", "2"]);
    assert.equal(await shown.locator("a").getAttribute("href"), "https://example.org/a?b=1");
    assert((await shown.innerText()).includes("2 * 3 * 4 and snake_case_name stay."));
    assert((await shown.locator(".code pre").first().innerText()).startsWith("def f(x):\n    return \"<script>\" * x"));
    assert.equal(await shown.locator(".code pre").last().innerText(), "int open;");
    assert(await count(".code .d") > 0 && await count("li .d") > 0, "no tint inside code or lists");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await shown.getByRole("button", { name: "Copy" }).first().click();
    await shown.getByRole("button", { name: "Copied" }).waitFor();
    assert((await page.evaluate(() => navigator.clipboard.readText())).startsWith("def f(x):"));
    await page.locator("#log").evaluate(e => { e.scrollTop = 0; });
    await picture(page, "markdown-light");
    await page.emulateMedia({ colorScheme: "dark" });
    await picture(page, "markdown-dark");
    await close(page);
  },

  async dark(s) {
    const page = await open(s, { colorScheme: "dark" });
    await settings(page, { temperature: "0", thinking: "on" });
    await ask(page, "Tell me a short story about a frog named Elena and a button.");
    await picture(page, "chat-dark");
    await page.getByRole("button", { name: "Settings", exact: true }).click();
    await picture(page, "settings-dark");
    const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await back();
    await page.locator("#theme").selectOption("light");
    assert.notEqual(await back(), dark);
    await close(page);
  },

  async contrast(s) {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open(s, { colorScheme });
      const low = await page.evaluate(() => {
        const style = getComputedStyle(document.documentElement), value = n => {
          const c = document.createElement("canvas").getContext("2d");
          c.fillStyle = style.getPropertyValue(n).trim();
          c.fillRect(0, 0, 1, 1);
          return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        };
        const light = n => { const [r, g, b] = value(n); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
        return [["--text", "--bg"], ["--text", "--panel"], ["--text", "--tint"], ["--soft", "--bg"], ["--soft", "--panel"], ["--soft", "--raised"],
          ["--accent", "--bg"], ["--on-accent", "--accent"], ["--bad", "--bg"], ["--bad", "--bad-bg"]]
          .map(([a, b]) => [a + " on " + b, ratio(a, b)]).filter(([, r]) => r < 4.5);
      });
      assert.deepEqual(low, [], colorScheme);
      await close(page);
    }
  },

  async key() {
    const s = await Server.start(0, "--api-key", "right");
    try {
      const page = await open(s);
      await box(page).fill("Tell me the capital of Austria.");
      await box(page).press("Enter");
      await page.getByRole("alert").waitFor();
      assert.match(await page.getByRole("alert").innerText(), /asks for an API key/);
      await picture(page, "key-asked");
      await page.locator(".failure").getByRole("textbox", { name: "API key" }).fill("wrong");
      await page.getByRole("button", { name: "Use this key" }).click();
      await page.getByText("does not know").waitFor();
      await page.locator(".failure").getByRole("textbox", { name: "API key" }).fill("right");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => !document.querySelector(".failure"));
      await finished(page);
      assert((await answers(page).innerText()).includes("Vienna"));
      assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("right")), false, "the key is kept on disk");
      await close(page);
    } finally {
      await s.stop();
    }
  },

  async gone() {
    let s = await Server.start(0);
    const page = await open(s);
    await ask(page, "Hello");
    await s.stop();
    await box(page).fill("Hello again");
    await box(page).press("Enter");
    await page.getByRole("alert").waitFor();
    assert.match(await page.getByRole("alert").innerText(), /connection to the server is lost/);
    await page.locator("#dot.down").waitFor();
    await picture(page, "server-gone");
    s = await Server.start(s.port);
    await page.locator("#dot.ready").waitFor();
    await page.getByRole("button", { name: "Retry" }).click();
    await page.waitForFunction(() => !document.querySelector(".failure"));
    await finished(page);
    assert.equal(await answers(page).count(), 2);
    page.strange = page.strange.filter(t => !/ERR_CONNECTION/.test(t));
    await close(page);
    await s.stop();
  },

  async phone(s) {
    const page = await open(s, { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    await picture(page, "phone-empty");
    await settings(page, { temperature: "0", thinking: "on" });
    await ask(page, "Tell me a short story about a frog named Elena and a button.");
    await picture(page, "phone-chat");
    const wide = await page.evaluate(() => [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 &&
      !e.closest("pre, .table")).map(e => e.tagName + "." + e.className + "#" + e.id));
    assert.deepEqual(wide, [], "wider than the screen");
    for (const name of ["Send", "Settings", "New chat"]) {
      const b = await page.getByRole("button", { name, exact: true }).boundingBox();
      assert(b && b.x >= 0 && b.x + b.width <= 360 && b.height >= 24, name);
    }
    await page.getByRole("button", { name: "Settings", exact: true }).click();
    await picture(page, "phone-settings");
    await close(page);
  },

  async keyboard(s) {
    const page = await open(s);
    await page.keyboard.type("Hello");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("again");
    assert.equal(await box(page).inputValue(), "Hello\nagain");
    await page.keyboard.press("Enter");
    await finished(page);
    assert.equal(await page.locator(".user").innerText(), "Hello\nagain");
    const seen = [];
    for (let i = 0; i < 14; i++) {
      await page.keyboard.press("Tab");
      seen.push(await page.evaluate(() => document.activeElement.getAttribute("aria-label") || document.activeElement.textContent ||
        document.activeElement.id));
    }
    for (const name of ["New chat", "Settings", "Copy", "Retry", "Message"]) assert(seen.includes(name), name + " is not reached: " + seen);
    const unnamed = await page.evaluate(() => [...document.querySelectorAll("button, input, textarea, select")]
      .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML));
    assert.deepEqual(unnamed, []);
    await page.getByRole("button", { name: "Settings", exact: true }).focus();
    await page.keyboard.press("Enter");
    assert(await page.locator("#settings").isVisible());
    await page.keyboard.press("Escape");
    assert(!(await page.locator("#settings").isVisible()));
    await close(page);
  },
};

let failed = 0;
const shared = await Server.start(0, "--spec-fixed", "--spec-draft-n-max", "4"); // the depth does not follow the clock
for (const [name, test] of Object.entries(tests)) {
  if (chosen.length && !chosen.includes(name)) continue;
  const begin = Date.now();
  try {
    await test(shared);
    console.log("ok   page %s %s s", name.padEnd(12), ((Date.now() - begin) / 1000).toFixed(1));
  } catch (e) {
    failed++;
    console.log("FAIL page %s %s", name.padEnd(12), String(e.stack || e).slice(0, 1500));
  }
}
await browser.close();
await shared.stop();
console.log("screenshots: " + folder);
process.exit(failed ? 1 : 0);
