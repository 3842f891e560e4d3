// What the page asks of the server: its facts, its voices, and speech as a stream of events.

import { fetchWithKey } from "./key.js";

async function ask(path, options = {}) {
  const answer = await fetchWithKey(path, options);
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new Error(body?.error?.message ?? `the server answered ${answer.status}`);
}

export const info = async () => (await ask("/api/info")).json();
export const voices = async () => (await (await ask("/v1/audio/voices")).json()).voices;

export async function addVoice(file, name, text) {
  const form = new FormData();
  form.set("audio_sample", file, "recording");
  form.set("name", name);
  form.set("text", text);
  return (await ask("/v1/audio/voices", { method: "POST", body: form })).json();
}

// Yield the events of a request as they come; PCM comes base64 in `speech.audio.delta`.
export async function* speak(fields, signal) {
  const answer = await askForEvents("/v1/audio/speech", fields, signal);
  const skipped = answer.headers.get("x-soundloom-skipped");
  if (skipped) yield { type: "skipped", parts: skipped.split(",").map(decodeURIComponent) };
  yield* events(answer);
}

// The same for music; PCM comes in `music.audio.delta`.
export async function* music(fields, signal) {
  yield* events(await askForEvents("/v1/audio/music", fields, signal));
}

function askForEvents(path, fields, signal) {
  const body = JSON.stringify({ ...fields, response_format: "pcm", stream_format: "sse", include_codes: true });
  return ask(path, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

export function samples(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}
