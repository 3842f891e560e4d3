// The page: the reader's sound, and eight figures that are drawn when they come into view.

import * as api from "./api.js";
import * as audio from "./audio.js";
import { codecFigures } from "./codec-figures.js";
import { generationFigure } from "./generation-figure.js";

const $ = (id) => document.getElementById(id);
const status = (text) => { $("status").textContent = text; };

// What all figures share. `codes` belong to `wave`; `version` grows with each new sound.
const state = { codec: null, wave: null, codes: null, wav: null, version: 0 };

async function use(wave, name) {
  status(`Encoding ${name} …`);
  const most = state.codec.max_seconds * state.codec.sample_rate;
  state.wave = wave.length > most ? wave.slice(0, most) : wave;
  state.wav = audio.toWav(state.wave);
  state.codes = await api.encode(state.wav);
  state.version += 1;
  const seconds = (state.wave.length / state.codec.sample_rate).toFixed(1);
  status(`${name}: ${seconds} s, ${state.codes[0].length} frames of ${state.codec.levels} codes.`);
  refresh();
}

const figures = []; // {element, draw, seen: version that was drawn, visible}

function refresh() {
  for (const figure of figures) {
    if (figure.visible && figure.seen !== state.version) {
      figure.seen = state.version;
      Promise.resolve(figure.draw()).catch((error) => status(`Figure "${figure.title}": ${error.message}`));
    }
  }
}

function add({ title, text, source, build }) {
  const section = document.createElement("section");
  const number = figures.length + 1;
  section.id = `figure-${number}`;
  section.setAttribute("aria-labelledby", `${section.id}-title`);
  section.innerHTML = `<h2 id="${section.id}-title">${number}. ${title}</h2><p>${text}</p><div class="figure"></div>
    <p class="code">The code: <a href="source/${source[0]}">${source[1]}</a></p>`;
  $("main").append(section);
  const figure = { title, element: section, seen: -1, visible: false, draw: build(section.querySelector(".figure"), state, status) };
  figures.push(figure);
  new IntersectionObserver((entries) => {
    figure.visible = entries.some((entry) => entry.isIntersecting);
    if (figure.visible && state.wave) refresh();
  }, { rootMargin: "200px" }).observe(section);
}

async function guarded(action) {
  try { await action(); } catch (error) { status(error.message); }
}

async function start() {
  state.codec = await api.codec();
  audio.setRate(state.codec.sample_rate);
  for (const figure of codecFigures) add(figure);
  add(generationFigure);
  const names = await api.samples();
  for (const name of names) $("sample").add(new Option(name, name));
  const load = (name) => guarded(async () => use(await audio.decodeFile(await api.sample(name)), name));
  $("sample").onchange = () => load($("sample").value);
  $("file").onchange = () => guarded(async () => {
    const file = $("file").files[0];
    if (file) await use(await audio.decodeFile(await file.arrayBuffer()), file.name);
  });
  $("record").onclick = () => guarded(async () => {
    $("record").setAttribute("aria-pressed", "true");
    status("Recording for 5 seconds …");
    try { await use(await audio.record(5), "your recording"); } finally { $("record").setAttribute("aria-pressed", "false"); }
  });
  $("play-sound").onclick = () => state.wave && audio.play([state.wave]);
  $("stop").onclick = audio.stop;
  window.addEventListener("resize", () => { figures.forEach((figure) => { figure.seen = -1; }); if (state.wave) refresh(); });
  if (names.length) await load(names[0]); else status("Open a file or record a sound to begin.");
}

guarded(start);
