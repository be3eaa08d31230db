// What the JavaScript programs share: where the server is, its slots seen from outside, one line per test.
import assert from "node:assert/strict";

export const [url, key, ...chosen] = process.argv.slice(2);
export { assert };

export async function get(path) {
  const r = await fetch(url + path, { headers: { Authorization: "Bearer " + key } });
  return r.json();
}

export const busy = async () => (await get("/slots")).filter(s => s.is_processing).length;

export async function until(condition, seconds, text) {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    assert(Date.now() < end, text);
    await new Promise(r => setTimeout(r, 10));
  }
}

export const idle = () => until(async () => (await busy()) === 0, 3, "a slot is still busy");

/** The promise must be rejected with exactly that class and status, and say what is wrong. */
export async function rejects(kind, status, promise, inside = "") {
  let error;
  try {
    await promise;
  } catch (e) {
    error = e;
  }
  assert(error, "no " + kind.name);
  assert.equal(error.constructor.name, kind.name, String(error));
  assert.equal(error.status, status);
  assert(String(error).includes(inside), `${error} does not say ${inside}`);
  return error;
}

export async function run(tests) {
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    if (chosen.length && !chosen.includes(name)) continue;
    const begin = Date.now();
    try {
      const said = await test();
      console.log("ok   %s %s s %s", name.padEnd(22), ((Date.now() - begin) / 1000).toFixed(1).padStart(5),
        said === undefined ? "" : JSON.stringify(said));
    } catch (e) {
      failed++;
      console.log("FAIL %s %s", name.padEnd(22), String(e.stack || e).slice(0, 1500));
    }
  }
  process.exit(failed ? 1 : 0);
}
