// Calls to the explorer's API. Replace this file to run the same page on models in the browser.

import { fetchWithKey } from "../static/key.js";

async function check(response) {
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try { message = (await response.json()).error.message; } catch { /* the body was not JSON */ }
  throw new Error(message);
}

const get = async (path) => (await check(await fetchWithKey(`../api/${path}`))).json();
const post = async (path, body, type) =>
  check(await fetchWithKey(`../api/${path}`, { method: "POST", body, headers: { "Content-Type": type } }));
const postJson = (path, body) => post(path, JSON.stringify(body), "application/json");
const bytes = async (response) => (await check(response)).arrayBuffer();

export const codec = () => get("codec");
export const samples = async () => (await get("samples")).samples;
export const sample = (name) => fetchWithKey(`../api/samples/${encodeURIComponent(name)}`).then(bytes);
export const encode = async (wav) => (await (await post("encode", wav, "audio/wav")).json()).codes;
export const decode = (codes, levels, decoder = "shipped") => postJson("decode", { codes, levels, decoder }).then(bytes);
export const levels = async (wav) => (await (await post("levels", wav, "audio/wav")).json()).levels;
export const smaller = async (wav, size, count) =>
  (await post(`smaller?size=${size}&levels=${count}`, wav, "audio/wav")).json();
export const codebook = (level, size) => get(`codebook?level=${level}${size ? `&size=${size}` : ""}`);
export const tone = (level, code) => fetchWithKey(`../api/tone?level=${level}&code=${code}`).then(bytes);

export async function opus(wav, kbps) {
  const response = await post(`opus?kbps=${kbps}`, wav, "audio/wav");
  return { kbps: Number(response.headers.get("X-Kbps")), wav: await response.arrayBuffer() };
}

// Yields [event, data] of the generation's event stream.
export async function* generate(text, seed) {
  const response = await postJson("generate", { text, seed });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const block = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      const event = /^event: (.*)$/m.exec(block);
      const data = /^data: (.*)$/m.exec(block);
      if (event && data) yield [event[1], JSON.parse(data[1])];
    }
  }
}
