// Sound in the page: decoding, WAV files, and one player that can switch between versions while it plays.

let context = null;
let rate = 24000;
let playing = null; // {sources, gains, started}

export function setRate(sampleRate) { rate = sampleRate; }

function output() {
  context ??= new AudioContext();
  if (context.state === "suspended") context.resume();
  return context;
}

// Any audio file -> mono Float32Array at the codec's rate.
export async function decodeFile(buffer) {
  const probe = new OfflineAudioContext(1, 1, rate);
  const decoded = await probe.decodeAudioData(buffer.slice(0));
  const mono = new OfflineAudioContext(1, Math.max(1, Math.round(decoded.duration * rate)), rate);
  const source = mono.createBufferSource();
  source.buffer = decoded;
  source.connect(mono.destination);
  source.start();
  return (await mono.startRendering()).getChannelData(0);
}

// Float32Array -> WAV file, 16 bit, mono.
export function toWav(wave) {
  const view = new DataView(new ArrayBuffer(44 + 2 * wave.length));
  const text = (at, value) => [...value].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * wave.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * wave.length, true);
  for (let i = 0; i < wave.length; i++) {
    view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, wave[i])) * 32767, true);
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

export const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

export function stop() {
  if (!playing) return;
  for (const source of playing.sources) { source.onended = null; source.stop(); }
  playing = null;
}

// Play several versions of a sound together, one of them audible; `choose(i)` switches while they play.
export function play(waves, audible = 0) {
  stop();
  const out = output();
  const gains = waves.map((_, i) => {
    const gain = out.createGain();
    gain.gain.value = i === audible ? 1 : 0;
    gain.connect(out.destination);
    return gain;
  });
  const sources = waves.map((wave, i) => {
    const buffer = out.createBuffer(1, Math.max(1, wave.length), rate);
    buffer.copyToChannel(wave, 0);
    const source = out.createBufferSource();
    source.buffer = buffer;
    source.connect(gains[i]);
    source.start();
    return source;
  });
  const mine = { sources, gains, started: out.currentTime };
  playing = mine;
  sources[0].onended = () => { if (playing === mine) playing = null; };
  return {
    choose: (index) => gains.forEach((gain, i) => gain.gain.setTargetAtTime(i === index ? 1 : 0, out.currentTime, 0.01)),
    active: () => playing === mine,
  };
}

export async function record(seconds) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  await new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
  recorder.stop();
  await ended;
  stream.getTracks().forEach((track) => track.stop());
  return decodeFile(await new Blob(parts).arrayBuffer());
}
