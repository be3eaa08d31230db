// Markdown as far as answers use it, made into elements; never into HTML text, so that nothing received can be code.
// The text is a Tinted: every character also says whether it was drafted, and keeps its tint wherever it is shown.
"use strict";

class Tinted {
  constructor(saved) {
    this.text = saved && typeof saved.text === "string" ? saved.text : "";
    this.marks = saved && typeof saved.marks === "string" ? saved.marks : ""; // per character: 1 drafted, 0 not, ? not known yet
    this.known = this.marks.length; // marks before it do not change any more
  }
  add(text) {
    this.text += text;
    this.marks += "?".repeat(text.length);
  }
  mark(from, marks) {
    this.marks = this.marks.slice(0, from) + marks + this.marks.slice(from + marks.length);
    this.known = Math.max(this.known, from + marks.length);
  }
}

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// ---- blocks: where in the text which kind of block is

const FENCE = /^ {0,3}(```+|~~~+)[ \t]*([\w+#.-]*)/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])[ \t]+/;
const HEADING = /^(#{1,6})[ \t]+/;
const QUOTE = /^>[ \t]?/;
const RULE = /^ {0,3}(?:\*{3,}|-{3,}|_{3,})[ \t]*$/;
const TABLE_RULE = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

function linesOf(text) {
  const lines = [];
  for (let from = 0; from <= text.length;) {
    let to = text.indexOf("\n", from);
    if (to < 0) to = text.length;
    lines.push({ from, to, s: text.slice(from, to) });
    from = to + 1;
  }
  return lines;
}

function fenced(lines, i) {
  const [, fence, language] = lines[i].s.match(FENCE);
  let end = i + 1;
  while (end < lines.length && !(lines[end].s.trim().startsWith(fence) && /^[`~]+$/.test(lines[end].s.trim()))) end++;
  const from = i + 1 < lines.length ? lines[i + 1].from : lines[i].to;
  const to = end > i + 1 ? lines[end - 1].to : from;
  return { kind: "pre", language, from, to, next: Math.min(end + 1, lines.length) };
}

function list(lines, i) {
  const items = [];
  let n = i;
  for (; n < lines.length; n++) {
    const m = lines[n].s.match(ITEM);
    if (m) {
      const indent = m[1].replace(/\t/g, "    ").length, ordered = /\d/.test(m[2]);
      if (items.length && indent <= items[0].indent + 1 && ordered !== items[0].ordered) break; // another list
      items.push({ indent, ordered, first: parseInt(m[2], 10),
        parts: [{ from: lines[n].from + m[0].length, to: lines[n].to }] });
    } else if (!lines[n].s.trim()) { // a blank line goes on with the list where an item follows
      if (n + 1 >= lines.length || !ITEM.test(lines[n + 1].s)) break;
    } else if (/^[ \t]/.test(lines[n].s) || (lines[n - 1].s.trim() && plain(lines, n))) {
      items[items.length - 1].parts.push({ from: lines[n].from + lines[n].s.search(/\S/), to: lines[n].to });
    } else break;
  }
  return { kind: "list", items, from: lines[i].from, to: lines[n - 1].to, next: n };
}

function plain(lines, i) {
  const s = lines[i].s;
  return s.trim() && !FENCE.test(s) && !HEADING.test(s) && !ITEM.test(s) && !QUOTE.test(s) && !RULE.test(s) && !isTable(lines, i);
}

function isTable(lines, i) {
  return lines[i].s.includes("|") && i + 1 < lines.length && lines[i + 1].s.includes("|") && TABLE_RULE.test(lines[i + 1].s);
}

// All lines from i on that `belongs` accepts, each without what `skip` matches.
function run(kind, lines, i, belongs, skip) {
  const parts = [];
  let n = i;
  for (; n < lines.length && belongs(n); n++) {
    const head = skip ? lines[n].s.match(skip) : null;
    parts.push({ from: lines[n].from + (head ? head[0].length : 0), to: lines[n].to });
  }
  return { kind, parts, from: lines[i].from, to: lines[n - 1].to, next: n };
}

function blocksOf(text) {
  const lines = linesOf(text), blocks = [];
  for (let i = 0; i < lines.length;) {
    const s = lines[i].s;
    let b = null;
    if (!s.trim()) { i++; continue; }
    if (FENCE.test(s)) b = fenced(lines, i);
    else if (RULE.test(s)) b = { kind: "hr", from: lines[i].from, to: lines[i].to, next: i + 1 };
    else if (HEADING.test(s)) b = { ...run("h", lines, i, n => n === i, HEADING), level: s.match(HEADING)[1].length };
    else if (ITEM.test(s)) b = list(lines, i);
    else if (QUOTE.test(s)) b = run("quote", lines, i, n => QUOTE.test(lines[n].s), QUOTE);
    else if (isTable(lines, i)) b = run("table", lines, i, n => lines[n].s.includes("|"));
    else b = run("p", lines, i, n => plain(lines, n));
    blocks.push(b);
    i = b.next;
  }
  return blocks;
}

// ---- inside a line

const INLINE = new RegExp([
  "(`+)(?!`)([^\\n]*?[^`])\\1(?!`)", // 1 2: code
  "\\*\\*(?=\\S)([^\\n]*?\\S)\\*\\*", // 3: strong
  "\\*(?=[^\\s*])([^\\n*]*?[^\\s*])\\*(?!\\*)", // 4: emphasis
  "\\b_(?=[^\\s_])([^\\n_]*?[^\\s_])_\\b", // 5: emphasis
  "\\[([^\\]\\n]+)\\]\\((https?:[^\\s)]+)\\)", // 6 7: link
  "(https?://[^\\s<>()\\[\\]\"']*[^\\s<>()\\[\\]\"'.,;:!?])", // 8: address
  "\\\\([!-/:-@\\[-`{-~])", // 9: a character that stands for itself
].join("|"), "g");

// The characters [from, to) as they are, tinted.
function put(into, t, from, to) {
  while (from < to) {
    const drafted = t.marks[from] === "1";
    let end = from + 1;
    while (end < to && (t.marks[end] === "1") === drafted) end++;
    const text = t.text.slice(from, end);
    into.append(drafted ? element("span", "d", text) : text);
    from = end;
  }
}

function link(url) {
  const a = element("a");
  a.href = url;
  a.target = "_blank";
  a.rel = "noopener noreferrer";
  return a;
}

function inline(into, t, from, to) {
  const text = t.text.slice(from, to);
  let done = 0;
  const inner = (e, m, group) => {
    const at = from + m.index + m[0].indexOf(group);
    into.append(e);
    return [e, t, at, at + group.length];
  };
  for (const m of text.matchAll(INLINE)) {
    put(into, t, from + done, from + m.index);
    done = m.index + m[0].length;
    if (m[1]) put(...inner(element("code"), m, m[2]));
    else if (m[3]) inline(...inner(element("strong"), m, m[3]));
    else if (m[4] || m[5]) inline(...inner(element("em"), m, m[4] || m[5]));
    else if (m[6]) put(...inner(link(m[7]), m, m[6]));
    else if (m[8]) put(...inner(link(m[8]), m, m[8]));
    else put(into, t, from + m.index + 1, from + done);
  }
  put(into, t, from + done, to);
}

function linesInto(into, t, parts) {
  parts.forEach((p, i) => {
    if (i) into.append(element("br"));
    inline(into, t, p.from, p.to);
  });
  return into;
}

// ---- elements of blocks

function codeBlock(t, b, copy) {
  const box = element("div", "code"), bar = element("div", "bar"), pre = element("pre"), code = element("code");
  bar.append(element("span", "", b.language || "text"), copy(t.text.slice(b.from, b.to)));
  put(code, t, b.from, b.to);
  pre.append(code);
  pre.tabIndex = 0; // wide lines can be scrolled by keys
  box.append(bar, pre);
  return box;
}

function listBlock(t, b) {
  const stack = [];
  for (const item of b.items) {
    while (stack.length && stack[stack.length - 1].indent > item.indent + 1) stack.pop();
    let top = stack[stack.length - 1];
    if (!top || item.indent > top.indent + 1) {
      const e = element(item.ordered ? "ol" : "ul");
      if (item.ordered && item.first !== 1) e.start = item.first;
      if (top) top.e.lastElementChild.append(e);
      stack.push(top = { e, indent: item.indent });
    }
    top.e.append(linesInto(element("li"), t, item.parts));
  }
  return stack[0].e;
}

function tableBlock(t, b) {
  const box = element("div", "table"), table = element("table");
  b.parts.forEach((p, i) => {
    if (i === 1) return; // the rule below the head
    const row = element("tr");
    let from = p.from, text = t.text.slice(p.from, p.to);
    if (/^\s*\|/.test(text)) from += text.indexOf("|") + 1;
    const to = /\|\s*$/.test(text) ? p.from + text.lastIndexOf("|") : p.to;
    while (from <= to) {
      let end = t.text.indexOf("|", from);
      if (end < 0 || end > to) end = to;
      const cell = element(i ? "td" : "th"), s = t.text.slice(from, end);
      inline(cell, t, from + (s.length - s.trimStart().length), from + s.trimEnd().length);
      row.append(cell);
      from = end + 1;
    }
    table.append(row);
  });
  box.append(table);
  return box;
}

function blockElement(t, b, copy) {
  if (b.kind === "pre") return codeBlock(t, b, copy);
  if (b.kind === "list") return listBlock(t, b);
  if (b.kind === "table") return tableBlock(t, b);
  if (b.kind === "hr") return element("hr");
  const tag = b.kind === "h" ? "h" + Math.min(5, b.level + 2) : b.kind === "quote" ? "blockquote" : "p";
  return linesInto(element(tag), t, b.parts);
}

// Shows the text in an element. What has not changed since the last call is left alone, so that a long answer costs no
// more per token than a short one, and what is selected in it stays selected.
function render(into, t, copy) {
  const old = into.shownBlocks || [], now = [];
  blocksOf(t.text).forEach((b, i) => {
    const key = [b.kind, b.from, b.to, b.next, b.language || "", Math.min(t.known, b.to)].join(" ");
    if (old[i] && old[i].key === key) {
      now.push(old[i]);
      return;
    }
    const e = blockElement(t, b, copy);
    if (old[i]) old[i].e.replaceWith(e);
    else into.append(e);
    now.push({ key, e });
  });
  for (const o of old.slice(now.length)) o.e.remove();
  into.shownBlocks = now;
}
