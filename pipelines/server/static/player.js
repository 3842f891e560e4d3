// Plays sound while it arrives. Chunks are placed one after the other on the clock of the audio output; where one comes
// late, the rest moves back, and `position` knows it.

const LEAD = 0.06; // seconds between the first chunk and its sound, so that the second is there in time

export class Player {
  constructor(rate) {
    this.rate = rate;
    this.context = null;
    this.clear();
  }

  clear() {
    this.stop();
    this.chunks = [];
    this.length = 0; // samples
  }

  // Browsers let a page make sound only from a click or key: call it there.
  wake() {
    this.context ??= new AudioContext({ sampleRate: this.rate });
    this.context.resume();
  }

  stop() {
    for (const source of this.sources ?? []) {
      source.onended = null;
      source.stop();
    }
    this.sources = new Set();
    this.places = []; // {time, sample, length}: which sample sounds when
    this.next = 0;
    this.playing = false;
  }

  push(chunk) {
    this.chunks.push(chunk);
    this.#place(chunk, this.length);
    this.length += chunk.length;
  }

  // Play what has come, from a sample on.
  play(from = 0) {
    this.stop();
    this.wake();
    let at = 0;
    for (const chunk of this.chunks) {
      const skip = Math.max(0, from - at);
      if (skip < chunk.length) this.#place(chunk.subarray(skip), at + skip);
      at += chunk.length;
    }
  }

  #place(chunk, sample) {
    if (!chunk.length || !this.context) return;
    const buffer = this.context.createBuffer(1, chunk.length, this.rate);
    buffer.copyToChannel(Float32Array.from(chunk, (value) => value / 32768), 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    const now = this.context.currentTime;
    const time = this.next > now ? this.next : now + LEAD;
    source.start(time);
    this.next = time + buffer.duration;
    this.places.push({ time, sample, length: chunk.length });
    this.sources.add(source);
    this.playing = true;
    source.onended = () => {
      this.sources.delete(source);
      if (!this.sources.size) this.playing = false;
    };
  }

  // The sample that sounds now.
  get position() {
    if (!this.context) return 0;
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    let found = 0;
    for (const place of this.places) {
      if (place.time > now) break;
      found = place.sample + Math.min(place.length, Math.round((now - place.time) * this.rate));
    }
    return found;
  }

  wav() {
    const head = new DataView(new ArrayBuffer(44));
    const text = (at, value) => [...value].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
    text(0, "RIFF"); head.setUint32(4, 36 + 2 * this.length, true); text(8, "WAVEfmt ");
    head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
    head.setUint32(24, this.rate, true); head.setUint32(28, 2 * this.rate, true);
    head.setUint16(32, 2, true); head.setUint16(34, 16, true);
    text(36, "data"); head.setUint32(40, 2 * this.length, true);
    return new Blob([head, ...this.chunks], { type: "audio/wav" });
  }
}
