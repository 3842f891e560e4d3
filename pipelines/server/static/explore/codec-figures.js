// Figures 1 to 7: the codec.

import * as api from "./api.js";
import * as audio from "./audio.js";
import * as draw from "./draw.js";
import { careful } from "./trouble.js";

// Build elements from HTML and return those with a data-name by that name.
function parts(root, html) {
  root.innerHTML = html;
  return Object.fromEntries([...root.querySelectorAll("[data-name]")].map((e) => [e.dataset.name, e]));
}

// What each level adds, asked for once a sound.
function levelsOf(state) {
  if (state.levelsVersion !== state.version) {
    state.levelsVersion = state.version;
    state.levels = api.levels(state.wav);
  }
  return state.levels;
}

const decoded = async (...call) => audio.decodeFile(await api.decode(...call));
const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;

// Run the newest call only: a slider gives many, and answers may come out of order.
function latest(action) {
  let number = 0;
  return careful(async (...values) => {
    const mine = ++number;
    await new Promise((resolve) => { setTimeout(resolve, 30); });
    if (mine === number) await action(() => mine === number, ...values);
  });
}

function compression(root, state) {
  const ui = parts(root, `
    <canvas data-name="wave" role="img" aria-label="Waveform"></canvas>
    <canvas data-name="grid" role="img" aria-label="Token grid below the waveform, one row a level"></canvas>
    <label>Length <input data-name="length" type="range" min="1" max="100" value="100"></label>
    <p class="numbers" data-name="numbers" aria-live="polite"></p>`);
  const show = () => {
    if (!state.codes) return;
    const { sample_rate: rate, hop_length: hop, bits_per_code: bits, codebook_size: size } = state.codec;
    const frames = Math.max(1, Math.round((state.codes[0].length * ui.length.value) / 100));
    const samples = Math.min(frames * hop, state.wave.length);
    draw.waveform(ui.wave, state.wave, { to: samples });
    draw.grid(ui.grid, state.codes.map((row) => row.slice(0, frames)), size);
    const raw = samples * 16, tokens = frames * state.codes.length;
    ui.numbers.textContent = `${(samples / rate).toFixed(2)} s: ${samples.toLocaleString()} samples of 16 bits = ` +
      `${(raw / 1000).toFixed(0)} kbit. ${tokens.toLocaleString()} tokens of ${bits} bits = ` +
      `${((tokens * bits) / 1000).toFixed(1)} kbit, ${(raw / (tokens * bits)).toFixed(0)} times smaller.`;
  };
  ui.length.oninput = show;
  return show;
}

function snapping(root, state) {
  const options = Array.from({ length: state.codec.levels }, (_, k) => `<option value="${k}">${k + 1}</option>`).join("");
  const ui = parts(root, `
    <div class="row"><label>Level <select data-name="level">${options}</select></label>
      <button type="button" data-name="play">Play the nearest code</button></div>
    <canvas data-name="plane" tabindex="0" role="application" aria-label="Codebook. Arrow keys move the point, Enter plays the nearest code."></canvas>
    <p class="numbers" data-name="numbers" aria-live="polite"></p>`);
  let points = [], cross = [0, 0], nearest = 0, view = null, shown = 0;
  const paint = () => {
    if (!points.length) return;
    const far = (p) => (p[0] - cross[0]) ** 2 + (p[1] - cross[1]) ** 2;
    nearest = points.reduce((best, p, i) => (far(p) < far(points[best]) ? i : best), 0);
    view = draw.scatter(ui.plane, points, { marked: [nearest], cross });
    ui.numbers.textContent = `Nearest code: ${nearest}. Distance in this plane: ${Math.sqrt(far(points[nearest])).toFixed(2)}. ` +
      `The plane shows ${percent(shown)} of the codebook's variance.`;
  };
  const load = careful(async () => {
    const book = await api.codebook(Number(ui.level.value));
    points = book.points; shown = book.variance_shown;
    paint();
  });
  const play = careful(async () => audio.play([await audio.decodeFile(await api.tone(Number(ui.level.value), nearest))]));
  ui.level.onchange = load;
  ui.play.onclick = play;
  const move = (event) => {
    const box = ui.plane.getBoundingClientRect();
    cross = view.inverse(event.clientX - box.left, event.clientY - box.top);
    paint();
  };
  ui.plane.onpointerdown = (event) => { ui.plane.setPointerCapture(event.pointerId); move(event); };
  ui.plane.onpointermove = (event) => { if (event.buttons) move(event); };
  ui.plane.onpointerup = play;
  ui.plane.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === "Enter") play();
    if (!step || !view) return;
    event.preventDefault();
    cross = cross.map((v, i) => v + (step[i] * view.most) / 25);
    paint();
  };
  return () => (points.length ? paint() : load());
}

function codebookSize(root, state) {
  const bits = Math.log2(state.codec.codebook_size), first = Math.min(6, bits);
  const ui = parts(root, `
    <div class="row"><label>Codes a level <input data-name="size" type="range" min="4" max="${bits}" value="${first}"></label>
      <output data-name="out">${2 ** first}</output><button type="button" data-name="play">Play</button></div>
    <canvas data-name="plane" role="img" aria-label="The codes of the smaller codebook"></canvas>
    <p class="numbers" data-name="numbers" aria-live="polite"></p>`);
  let wave = null;
  const show = latest(async (current) => {
    const size = 2 ** ui.size.value;
    ui.out.textContent = size;
    const [report, book] = await Promise.all([api.smaller(state.wav, size, state.codec.levels), api.codebook(0, size)]);
    if (!current()) return;
    wave = await audio.decodeFile(audio.fromBase64(report.wav));
    draw.scatter(ui.plane, book.points, { height: 200 });
    const dead = report.usage.map((share) => Math.round((1 - share) * size));
    ui.numbers.textContent = `${report.kbps.toFixed(2)} kbit/s. Error of the latent: ${percent(report.residual)}. ` +
      `Mel distance: ${report.mel_distance.toFixed(2)}. In this sound ${dead[0]} of ${size} codes of level 1 do not occur.`;
  });
  ui.size.oninput = show;
  ui.play.onclick = () => wave && audio.play([wave]);
  return show;
}

function residual(root, state) {
  const ui = parts(root, `
    <div class="row"><label>Levels <input data-name="count" type="range" min="1" max="${state.codec.levels}" value="1"></label>
      <output data-name="out">1</output><button type="button" data-name="play">Play</button></div>
    <figure><canvas data-name="zoom" role="img" aria-label="30 ms of the original and of the reconstruction"></canvas>
      <figcaption>30 ms at the loudest place: original and reconstruction.</figcaption></figure>
    <figure><canvas data-name="bars" role="img" aria-label="Energy that is left after each level"></canvas>
      <figcaption>Energy of the latent that is left after each number of levels.</figcaption></figure>
    <p class="numbers" data-name="numbers" aria-live="polite"></p>`);
  let rows = [], wave = null;
  const show = latest(async (current) => {
    const count = Number(ui.count.value);
    ui.out.textContent = count;
    const made = await decoded(state.codes, count);
    rows = await levelsOf(state);
    if (!current()) return;
    wave = made;
    const peak = state.wave.reduce((best, v, i) => (Math.abs(v) > Math.abs(state.wave[best]) ? i : best), 0);
    const span = Math.round(0.03 * state.codec.sample_rate);
    const from = Math.max(0, Math.min(peak - span / 2, state.wave.length - span)) | 0;
    const range = { from, to: Math.min(from + span, state.wave.length), height: 110 };
    draw.waveform(ui.zoom, state.wave, range);
    draw.waveform(ui.zoom, made, { ...range, keep: true, colour: draw.css("--second") });
    draw.bars(ui.bars, rows.map((row) => row.residual), { labels: rows.map((row) => row.levels), mark: count - 1 });
    const row = rows[count - 1];
    ui.numbers.textContent = `${count} levels, ${row.kbps.toFixed(1)} kbit/s: ${percent(row.residual)} of the energy is left, mel distance ${row.mel_distance.toFixed(2)}.`;
  });
  ui.count.oninput = show;
  ui.play.onclick = () => wave && audio.play([wave]);
  return show;
}

function adversarial(root, state) {
  const other = state.codec.decoders.find((name) => name !== "shipped");
  if (!other) {
    root.innerHTML = "<p>This codec has one decoder only, so there is nothing to compare.</p>";
    return () => {};
  }
  const ui = parts(root, `
    <div class="row" role="group" aria-label="Which decoder is heard">
      <button type="button" data-name="off" aria-pressed="false">Without GAN</button>
      <button type="button" data-name="on" aria-pressed="true">With GAN</button>
      <button type="button" data-name="original" aria-pressed="false">Original</button>
      <button type="button" class="primary" data-name="play">Play, and switch while it plays</button></div>
    <div class="pair">
      <figure><canvas data-name="spectrumOff" role="img" aria-label="Spectrogram without GAN"></canvas><figcaption>Without GAN</figcaption></figure>
      <figure><canvas data-name="spectrumOn" role="img" aria-label="Spectrogram with GAN"></canvas><figcaption>With GAN</figcaption></figure>
      <figure><canvas data-name="spectrum" role="img" aria-label="Spectrogram of the original"></canvas><figcaption>Original</figcaption></figure>
    </div>`);
  const buttons = [ui.off, ui.on, ui.original];
  let waves = [], chosen = 1, player = null;
  const choose = (index) => {
    chosen = index;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
    if (player?.active()) player.choose(index);
  };
  buttons.forEach((button, i) => { button.onclick = () => choose(i); });
  ui.play.onclick = () => { if (waves.length) player = audio.play(waves, chosen); };
  return async () => {
    waves = [await decoded(state.codes, state.codec.levels, other), await decoded(state.codes, state.codec.levels), state.wave];
    [ui.spectrumOff, ui.spectrumOn, ui.spectrum].forEach((canvas, i) => draw.spectrogram(canvas, waves[i]));
  };
}

function bitrate(root, state) {
  const ui = parts(root, `
    <div class="scroll" tabindex="0" role="region" aria-label="Table of bitrates"><table><thead><tr><th>levels</th><th>kbit/s</th><th>tokens a second</th>
      <th>times smaller</th><th>mel distance</th><th>listen</th></tr></thead><tbody data-name="rows"></tbody></table></div>
    <div class="row"><button type="button" data-name="opus">Play Opus at its lowest bitrate</button></div>
    <p class="numbers" data-name="numbers" aria-live="polite"></p>`);
  ui.opus.onclick = careful(async () => {
    const made = await api.opus(state.wav, 6);
    audio.play([await audio.decodeFile(made.wav)]);
    ui.numbers.textContent = `Opus: ${made.kbps.toFixed(1)} kbit/s, all of the file counted.`;
  });
  return async () => {
    const raw = (16 * state.codec.sample_rate) / 1000;
    const rows = await levelsOf(state);
    ui.rows.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      const cells = [row.levels, row.kbps.toFixed(1), row.levels * state.codec.frame_rate, (raw / row.kbps).toFixed(0), row.mel_distance.toFixed(2)];
      line.innerHTML = `${cells.map((cell) => `<td>${cell}</td>`).join("")}<td></td>`;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Play";
      button.setAttribute("aria-label", `Play ${row.levels} levels`);
      button.onclick = careful(async () => audio.play([await decoded(state.codes, row.levels)]));
      line.lastElementChild.append(button);
      return line;
    }));
  };
}

function whole(root, state) {
  const ui = parts(root, `
    <div class="row"><label>Levels <input data-name="count" type="range" min="1" max="${state.codec.levels}" value="${state.codec.levels}"></label>
      <button type="button" data-name="play" class="primary">Play the reconstruction</button>
      <button type="button" data-name="reset">Undo all edits</button></div>
    <canvas data-name="wave" role="img" aria-label="Waveform of the original"></canvas>
    <canvas data-name="grid" tabindex="0" role="application" aria-label="Token grid. Arrow keys choose a token, plus and minus change it."></canvas>
    <canvas data-name="made" role="img" aria-label="Waveform of the reconstruction"></canvas>
    <p class="numbers" data-name="numbers" aria-live="polite">Click a token, or use the arrow keys, then + and − to change it.</p>`);
  let codes = null, version = -1, at = [0, 0], wave = null;
  const paint = () => {
    draw.grid(ui.grid, codes, state.codec.codebook_size, { levels: Number(ui.count.value), cell: 18, selected: at });
    ui.numbers.textContent = `Level ${at[0] + 1}, frame ${at[1]} (${(at[1] / state.codec.frame_rate).toFixed(2)} s): code ${codes[at[0]][at[1]]}.`;
  };
  const make = latest(async (current) => {
    const made = await decoded(codes, Number(ui.count.value));
    if (!current()) return;
    wave = made;
    draw.waveform(ui.made, wave, { colour: draw.css("--second") });
  });
  const change = (step) => {
    const size = state.codec.codebook_size;
    codes[at[0]][at[1]] = (codes[at[0]][at[1]] + step + size) % size;
    paint(); make();
  };
  ui.count.oninput = () => { paint(); make(); };
  ui.play.onclick = () => wave && audio.play([wave]);
  ui.reset.onclick = () => { codes = state.codes.map((row) => [...row]); paint(); make(); };
  ui.grid.onclick = (event) => {
    const box = ui.grid.getBoundingClientRect();
    at = [Math.min(codes.length - 1, Math.floor((event.clientY - box.top) / 18)),
      Math.min(codes[0].length - 1, Math.floor(((event.clientX - box.left) / box.width) * codes[0].length))];
    paint();
  };
  ui.grid.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "+" || event.key === "=") change(37);
    else if (event.key === "-") change(-37);
    else if (step) {
      at = [Math.max(0, Math.min(codes.length - 1, at[0] + step[0])), Math.max(0, Math.min(codes[0].length - 1, at[1] + step[1]))];
      paint();
    } else return;
    event.preventDefault();
  };
  return async () => {
    if (version !== state.version) { codes = state.codes.map((row) => [...row]); at = [0, 0]; version = state.version; }
    draw.waveform(ui.wave, state.wave);
    paint();
    await make();
  };
}

export const codecFigures = [
  { title: "Waveform and tokens", build: compression, source: ["model", "codec/model.py"],
    text: "The codec cuts sound into frames and writes each frame as a few whole numbers, its tokens. Move the slider to see how much shorter that is." },
  { title: "Snapping to a codebook", build: snapping, source: ["quantize", "codec/quantize.py"],
    text: "A codebook is a list of vectors; a frame's vector is replaced by the nearest one. Move the point and hear the code that it snaps to." },
  { title: "Codebook size", build: codebookSize, source: ["figures", "pipelines/server/figures.py"],
    text: "More codes mean a smaller error, and one more bit for each doubling. Here the trained codebooks are clustered to fewer codes, and your sound is encoded with them." },
  { title: "Residual vector quantization", build: residual, source: ["quantize", "codec/quantize.py"],
    text: "Each level quantizes what the levels before it left over. Add levels one by one and watch the waveform approach its target." },
  { title: "Adversarial training, off and on", build: adversarial, source: ["discriminators", "codec/discriminators.py"],
    text: "Both decoders read the same tokens. One was trained on spectral distances alone, the other against discriminators too; compare the fine lines of the harmonics." },
  { title: "Bitrate is a dial", build: bitrate, source: ["model", "codec/model.py"],
    text: "Any first n levels decode. Fewer levels cost fewer bits and more quality; the mel distance falls as levels are added." },
  { title: "The whole codec", build: whole, source: ["model", "codec/model.py"],
    text: "Waveform, tokens, reconstruction. Change a token and hear what it did: the effect is local, because a frame's tokens describe 20 ms." },
];
