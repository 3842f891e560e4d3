// The page: the reader's sound, and eight figures that are drawn when they come into view.

import * as api from "./api.js";
import * as audio from "./audio.js";
import { codecFigures } from "./codec-figures.js";
import { generationFigure } from "./generation-figure.js";
import { TROUBLE } from "./trouble.js";

const $ = (id) => document.getElementById(id);
const status = (text) => { $("status").textContent = text; };

// What all figures share. `codes` belong to `wave`; `version` grows with each new sound.
const state = { codec: null, wave: null, codes: null, wav: null, version: 0 };

let newest = 0; // a sound that is chosen while another is encoded takes its place

async function use(wave, name) {
  const mine = ++newest;
  if (!wave.length) throw new Error(`${name} is empty; choose a sound that lasts at least a moment`);
  status(`Encoding ${name} …`);
  const { max_seconds: longest, sample_rate: rate } = state.codec;
  const cut = wave.length > longest * rate;
  const kept = cut ? wave.slice(0, longest * rate) : wave;
  const wav = audio.toWav(kept);
  const codes = await api.encode(wav);
  if (mine !== newest) return;
  Object.assign(state, { wave: kept, wav, codes, version: state.version + 1 });
  const seconds = (kept.length / rate).toFixed(1);
  status(`${name}: ${cut ? "its first " : ""}${seconds} s, ${codes[0].length} frames of ${state.codec.levels} codes.`);
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
    if (figure.visible && state.codes) refresh();
  }, { rootMargin: "200px" }).observe(section);
}

async function guarded(action) {
  try { await action(); } catch (error) { status(error.message); }
}

async function opened(file) {
  try {
    return await audio.decodeFile(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name}: your browser cannot read this as sound; try a WAV, FLAC, MP3 or Ogg file`);
  }
}

async function recorded() {
  try {
    return await audio.record(5);
  } catch (error) {
    throw new Error(`no recording: ${error.message}; allow the microphone for this page, or open a file`);
  }
}

async function start() {
  document.addEventListener(TROUBLE, (event) => status(`It did not work: ${event.detail}`));
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
    if (file) await use(await opened(file), file.name);
  });
  $("record").onclick = () => guarded(async () => {
    $("record").setAttribute("aria-pressed", "true");
    status("Recording for 5 seconds …");
    try { await use(await recorded(), "your recording"); } finally { $("record").setAttribute("aria-pressed", "false"); }
  });
  $("play-sound").onclick = () => {
    if (state.wave) audio.play([state.wave]); else status("Open a file or record a sound first.");
  };
  $("stop").onclick = audio.stop;
  window.addEventListener("resize", () => { figures.forEach((figure) => { figure.seen = -1; }); if (state.codes) refresh(); });
  if (names.length) await load(names[0]); else status("Open a file or record a sound to begin.");
}

guarded(start);
