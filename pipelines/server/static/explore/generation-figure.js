// Figure 8: a language model writes tokens, one step at a time.

import * as api from "./api.js";
import * as audio from "./audio.js";
import * as draw from "./draw.js";
import { careful } from "./trouble.js";

function build(root, state, status) {
  root.innerHTML = `
    <form class="row"><label for="gen-text">Text</label>
      <input id="gen-text" type="text" maxlength="200" value="Hello world, this is one step at a time.">
      <label>Seed <input id="gen-seed" type="number" min="0" max="9999" value="0"></label>
      <button class="primary">Generate</button></form>
    <div class="row"><label>Step <input id="gen-step" type="range" min="0" max="0" value="0" disabled></label>
      <button id="gen-run" type="button" disabled>Run</button>
      <button id="gen-so-far" type="button" disabled>Play the tokens so far</button>
      <button id="gen-voice" type="button" disabled>Play the voice</button></div>
    <div id="gen-tokens" class="tokens" role="group" aria-label="Text units; the darker, the more attention"></div>
    <figure><canvas id="gen-grid" role="img" aria-label="Tokens with the delay pattern"></canvas>
      <figcaption>Tokens as they are written: level k is one step later for each level before it.</figcaption></figure>
    <div id="gen-top" class="pair"></div>
    <p class="numbers" id="gen-numbers" aria-live="polite"></p>`;
  const ui = (name) => root.querySelector(`#gen-${name}`);
  let steps = [], tokens = [], speech = null, timer = null;

  const codesUpTo = (step) => steps[0].codes.map((_, k) => steps.slice(0, step + 1).map((one) => one.codes[k]));

  function show() {
    if (!steps.length) return;
    const at = Number(ui("step").value), step = steps[at], levels = step.codes.length;
    // At step s of the model, level k writes frame s - k: the grid shows what has been written by then.
    const written = step.codes.map((_, k) => steps.slice(0, Math.max(0, at + 1 - k)).map((one) => one.codes[k]));
    draw.grid(ui("grid"), written, state.codec.codebook_size,
      { cell: 18, columns: steps.length + levels - 1, shift: step.codes.map((_, k) => k) });
    ui("tokens").replaceChildren(...tokens.map((token, i) => {
      const span = document.createElement("span");
      const weight = step.attention ? step.attention[i] ?? 0 : 0;
      span.textContent = token || "·";
      span.style.background = `color-mix(in srgb, var(--second) ${Math.round(Math.min(1, weight * 2) * 70)}%, transparent)`;
      return span;
    }));
    ui("top").replaceChildren(...step.top.map((list, k) => {
      const box = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Most probable codes of level ${k + 1}: ${list.map(([c, p]) => `${c} ${p}`).join(", ")}`);
      const caption = document.createElement("figcaption");
      caption.textContent = `Level ${k + 1}: sampled code ${step.codes[k]}`;
      box.append(canvas, caption);
      requestAnimationFrame(() => draw.bars(canvas, list.map(([, p]) => p),
        { labels: list.map(([c]) => c), height: 100, mark: list.findIndex(([c]) => c === step.codes[k]) }));
      return box;
    }));
    ui("numbers").textContent = `Frame ${at + 1} of ${steps.length} (${((at + 1) / state.codec.frame_rate).toFixed(2)} s): codes ${step.codes.join(", ")}.`;
  }

  function run() {
    if (timer) { clearInterval(timer); timer = null; ui("run").textContent = "Run"; return; }
    ui("run").textContent = "Pause";
    timer = setInterval(() => {
      const next = Number(ui("step").value) + 1;
      if (next >= steps.length) run(); else { ui("step").value = next; show(); }
    }, 120);
  }

  root.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    if (timer) run();
    steps = []; speech = null;
    status("Generating …");
    try {
      for await (const [kind, data] of api.generate(ui("text").value, Number(ui("seed").value))) {
        if (kind === "tokens") tokens = data.tokens;
        if (kind === "step") {
          steps.push(data);
          ui("step").max = steps.length - 1;
          if (steps.length === 1) show();
        }
        if (kind === "speech") speech = await audio.decodeFile(audio.fromBase64(data.wav));
      }
      ["step", "run", "so-far", "voice"].forEach((name) => { ui(name).disabled = false; });
      ui("step").value = 0;
      show();
      status(`Generated ${steps.length} frames. Move through them, or press Run.`);
    } catch (error) { status(error.message); }
  };
  ui("step").oninput = show;
  ui("run").onclick = run;
  ui("so-far").onclick = careful(async () =>
    audio.play([await audio.decodeFile(await api.decode(codesUpTo(Number(ui("step").value))))]));
  ui("voice").onclick = () => speech && audio.play([speech]);
  return show;
}

export const generationFigure = {
  title: "Generation, one step at a time", build, source: ["delay", "lm/delay.py"],
  text: "A language model reads the text and writes tokens. At each step it gives every code of each level a probability (shown before guidance and temperature), and one is sampled; the attention shows which text unit it is speaking.",
};
