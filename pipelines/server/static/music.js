// The studio's music box: describe a piece, hear it while it is made, see its tokens.

import { music, samples } from "./api.js";
import { Grid } from "./grid.js";
import { Player } from "./player.js";

const at = (id) => document.getElementById(`music-${id}`);
const state = { player: null, grid: null, facts: null, running: null, link: null };

export function begin(available) {
  at("off").hidden = available;
  at("on").hidden = !available;
  if (!available) return;
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state.running || state.player?.playing) stop("Stopped.");
    else start();
  });
  at("seconds").addEventListener("input", showSeconds);
  at("dice").addEventListener("click", () => { at("seed").value = Math.floor(Math.random() * 100000); });
  at("again").addEventListener("click", () => { state.player.play(0); showRunning(true); });
  showSeconds();
}

function showSeconds() { at("seconds-shown").textContent = `${at("seconds").value} s`; }

function say(text) { at("status").textContent = text; }

function stop(text) {
  state.running?.abort();
  state.running = null;
  state.player?.stop();
  showRunning(false);
  say(text);
}

async function start() {
  const prompt = at("prompt").value.trim();
  if (!prompt) {
    say("Say what the music should be like first.");
    at("prompt").focus();
    return;
  }
  const running = state.running = new AbortController();
  const fields = { prompt, seconds: Number(at("seconds").value), seed: Number(at("seed").value) || 0 };
  showRunning(true);
  say("Waiting for the music model; the first piece takes a moment …");
  try {
    for await (const event of music(fields, running.signal)) take(event);
  } catch (error) {
    if (error.name !== "AbortError") say(`It did not work: ${error.message}`);
  } finally {
    if (state.running === running) {
      state.running = null;
      if (!state.player?.playing) showRunning(false);
    }
  }
}

function take(event) {
  if (event.type === "music.started") {
    state.facts = { ...event, default_levels: event.levels };
    state.player?.stop();
    state.player = new Player(event.sample_rate);
    state.player.wake();
    state.grid ??= new Grid(at("grid"), state.facts);
    state.grid.facts = state.facts;
    state.grid.clear();
    at("canvas").hidden = false;
    say("Writing …");
    requestAnimationFrame(tick);
  } else if (event.type === "music.codes") {
    state.grid.push(event.codes);
  } else if (event.type === "music.audio.delta") {
    state.player.push(samples(event.audio));
  } else if (event.type === "music.audio.error") {
    throw new Error(event.error.message);
  } else if (event.type === "music.audio.done") finish(event);
}

function finish(event) {
  const { player, grid, facts } = state;
  if (state.link) URL.revokeObjectURL(state.link);
  state.link = URL.createObjectURL(player.wav());
  at("download").href = state.link;
  at("download").setAttribute("aria-disabled", "false");
  at("again").disabled = false;
  at("grid").setAttribute("aria-label", grid.describe());
  const found = { loop: " It repeats itself; try another seed.", silence: " It is silent in parts; try another seed." };
  say(`All of it is here: ${(player.length / facts.sample_rate).toFixed(1)} seconds.${found[event.finish_reason] ?? ""}`);
}

function showRunning(yes) {
  at("make").textContent = yes ? "Stop" : "Make music";
  if (yes && state.player) requestAnimationFrame(tick);
}

// Once a screen frame, while something sounds or is made.
function tick() {
  const { player, grid, facts, running } = state;
  if (!grid) return;
  if (running && !player.playing) grid.draw(grid.frames.length); // written faster or slower than it sounds
  else grid.draw(Math.min(player.position / facts.sample_rate * facts.frame_rate, grid.frames.length));
  if (running || player.playing) requestAnimationFrame(tick);
  else showRunning(false);
}
