// The studio: type a text, hear it while it is made, see its tokens.
//
// Plain JavaScript modules, on purpose. The page is one form, one canvas and one stream of events; a framework would be
// larger than all of it, would need a build or a vendored copy to keep up to date, and nothing may come from elsewhere.

import { addVoice, info, samples, speak, voices } from "./api.js";
import { Grid } from "./grid.js";
import { begin as beginMusic } from "./music.js";
import { Player } from "./player.js";
import { Words } from "./words.js";

const at = (id) => document.getElementById(id);
const state = { facts: null, player: null, grid: null, words: null, running: null, link: null };

function say(text) { at("status").textContent = text; }

async function begin() {
  try {
    state.facts = await info();
  } catch (error) {
    say(`The server cannot be used: ${error.message}`);
    return;
  }
  const { facts } = state;
  state.player = new Player(facts.sample_rate);
  state.grid = new Grid(at("grid"), facts);
  state.words = new Words(at("words"));
  at("words").append("The words light up here as they are spoken.");
  at("words").classList.remove("speaking");
  at("levels").max = facts.levels;
  at("levels").value = facts.default_levels;
  at("clone").hidden = !facts.cloning;
  beginMusic(facts.music);
  await listVoices();
  connect();
  showSettings();
}

async function listVoices(chosen = at("speaker").value) {
  const options = (await voices()).map(({ id, name }) => new Option(name, id));
  at("speaker").replaceChildren(...options);
  if (options.some((option) => option.value === chosen)) at("speaker").value = chosen;
}

function fields() {
  return {
    model: "soundloom",
    input: at("text").value,
    voice: at("speaker").value,
    speed: Number(at("speed").value),
    seed: Number(at("seed").value) || 0,
    levels: Number(at("levels").value),
  };
}

function showSettings() {
  const asked = fields();
  const rate = state.facts.frame_rate * asked.levels * Math.log2(state.facts.codebook_size) / 1000;
  at("speed-shown").textContent = `${asked.speed.toFixed(2).replace(/\.?0+$/, "")}×`;
  at("levels-shown").textContent = `${asked.levels} of ${state.facts.levels}, ${rate.toFixed(1)} kbit/s`;
  at("count").textContent = `${asked.input.length.toLocaleString("en")} of 4,096 characters`;
  const body = JSON.stringify(asked).replaceAll("'", "'\\''");
  const type = "-H 'Content-Type: application/json'";
  at("command").textContent = `curl ${location.origin}/v1/audio/speech ${type} -d '${body}' -o speech.mp3`;
}

async function start() {
  stop();
  if (!at("text").value.trim()) {
    say("Type some words first.");
    at("text").focus();
    return;
  }
  const { player, grid, words } = state;
  player.clear();
  player.wake();
  grid.clear();
  words.clear();
  const asked = fields();
  grid.levels = asked.levels;
  const running = state.running = new AbortController();
  const began = performance.now();
  let first = null, skipped = [];
  showRunning(true);
  say("Reading the text …");
  try {
    for await (const event of speak(asked, running.signal)) {
      if (event.type === "speech.audio.delta") {
        if (first === null) {
          first = performance.now() - began;
          say("Speaking …");
        }
        player.push(samples(event.audio));
      } else if (event.type === "skipped") {
        skipped = event.parts;
      } else if (event.type === "speech.codes") {
        grid.push(event.codes);
      } else if (event.type === "speech.sentence.started") {
        words.begin(event);
      } else if (event.type === "speech.sentence.ended") {
        words.end(event);
      } else if (event.type === "speech.words") {
        words.times(event);
      } else if (event.type === "speech.audio.error") {
        throw new Error(event.error.message);
      }
    }
    finish(first, performance.now() - began, skipped);
  } catch (error) {
    if (error.name !== "AbortError") say(`It did not work: ${error.message}`);
  } finally {
    if (state.running === running) {
      state.running = null;
      if (!player.playing) showRunning(false);
    }
  }
}

function finish(first, total, skipped) {
  const { player, grid, facts } = state;
  const seconds = player.length / facts.sample_rate;
  if (state.link) URL.revokeObjectURL(state.link);
  state.link = URL.createObjectURL(player.wav());
  at("download").href = state.link;
  at("download").setAttribute("aria-disabled", "false");
  at("again").disabled = false;
  at("grid").setAttribute("aria-label", grid.describe());
  at("position").max = seconds.toFixed(2);
  at("position").disabled = false;
  const bits = grid.frames.length * grid.levels * Math.log2(facts.codebook_size);
  showFacts({
    "First sound": `${Math.round(first)} ms`,
    "Sound": `${seconds.toFixed(1)} s`,
    "Made in": `${(total / 1000).toFixed(1)} s`,
    "Tokens": (grid.frames.length * grid.levels).toLocaleString("en"),
    "As tokens": `${(bits / 8000).toFixed(1)} kB`,
    "Raw audio is": `${Math.round(player.length * 16 / bits)}× larger`,
  });
  const left = skipped.length ? ` Left out, since it cannot be spoken: ${skipped.join(", ")}.` : "";
  say(`All of it is here: ${seconds.toFixed(1)} seconds, made in ${(total / 1000).toFixed(1)}.${left}`);
}

function showFacts(facts) {
  at("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const one = document.createElement("div");
    const term = document.createElement("dt"), number = document.createElement("dd");
    term.textContent = name;
    number.textContent = value;
    one.append(term, number);
    return one;
  }));
}

function stop() {
  state.running?.abort();
  state.running = null;
  state.player.stop();
  showRunning(false);
}

function showRunning(yes) {
  at("speak").textContent = yes ? "Stop" : "Speak";
  at("speak").dataset.running = yes;
  if (yes) requestAnimationFrame(tick);
}

// Once a screen frame, while something sounds or is made.
function tick() {
  const { player, grid, words, facts } = state;
  const seconds = player.position / facts.sample_rate;
  if (player.playing || state.running) show(seconds);
  if (player.playing || state.running) requestAnimationFrame(tick);
  else {
    show(player.length / facts.sample_rate);
    showRunning(false);
  }
  function show(time) {
    const frame = Math.min(time * facts.frame_rate, grid.frames.length);
    grid.draw(frame);
    words.light(time);
    at("position").value = time;
    at("position-shown").textContent = `${time.toFixed(1)} s`;
    const codes = grid.frames[Math.floor(frame)];
    at("frame").textContent = codes ? `frame ${Math.floor(frame)}: ${codes.join("  ")}` : "\u00a0";
  }
}

function connect() {
  const running = () => at("speak").dataset.running === "true";
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running()) {
      stop();
      say("Stopped.");
    } else start();
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
  });
  at("form").addEventListener("input", showSettings);
  at("dice").addEventListener("click", () => {
    at("seed").value = Math.floor(Math.random() * 100000);
    showSettings();
  });
  at("again").addEventListener("click", () => replay(0));
  at("position").addEventListener("change", () => replay(Number(at("position").value)));
  at("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(at("command").textContent);
    at("copy").textContent = "Copied";
  });
  at("clone-add").addEventListener("click", clone);
  at("record").addEventListener("click", record);
}

function replay(seconds) {
  state.player.play(Math.round(seconds * state.facts.sample_rate));
  showRunning(true);
}

// --- a speaker by recording ------------------------------------------------------------------------------------------

let recorded = null;
let recorder = null;

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      at("record").setAttribute("aria-pressed", "false");
      at("record").textContent = "Record again";
      recorded = await toWav(new Blob(parts));
      at("clone-status").textContent = "Recorded. Write down what you said, then add the speaker.";
    };
    recorder.start();
    setTimeout(() => recorder?.stop(), 15000);
    at("record").setAttribute("aria-pressed", "true");
    at("record").textContent = "Stop recording";
    at("clone-status").textContent = "Recording, at most 15 seconds …";
  } catch (error) {
    at("clone-status").textContent = `No recording: ${error.message}`;
  }
}

// What browsers record is WebM, which the server does not read; any sound that the browser can decode becomes WAV.
async function toWav(blob) {
  const rate = state.facts.sample_rate;
  const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await blob.arrayBuffer());
  const one = new Player(rate);
  const wave = sound.getChannelData(0);
  one.push(Int16Array.from(wave, (value) => Math.max(-1, Math.min(1, value)) * 32767));
  return one.wav();
}

async function clone() {
  const file = at("clone-file").files[0];
  try {
    const sound = file ? await toWav(file) : recorded;
    if (!sound) throw new Error("choose or make a recording first");
    const { id, name } = await addVoice(sound, at("clone-name").value, at("clone-text").value);
    await listVoices(id);
    at("clone-status").textContent = `${name} is now in the list of speakers, and chosen.`;
  } catch (error) {
    at("clone-status").textContent = `It did not work: ${error.message}`;
  }
}

begin();
