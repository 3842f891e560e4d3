// The token grid on a canvas: columns are frames, rows levels, colours codes. It shows the part around the playhead.

const CELL = 7; // CSS pixels a frame

export class Grid {
  constructor(canvas, facts) {
    this.canvas = canvas;
    this.facts = facts;
    this.clear();
    new ResizeObserver(() => this.draw(this.head)).observe(canvas);
  }

  clear() {
    this.frames = [];
    this.head = 0;
    this.levels = this.facts.default_levels;
    this.draw(0);
  }

  push(codes) { this.frames.push(...codes); }

  // Neighbouring codes are strangers, so the colour is a hash; the golden angle keeps hues apart.
  colour(code, level, decoded, dark) {
    const hue = (code * 137.508) % 360;
    const light = (dark ? 68 : 52) + ((code * 7) % 5) * 3;
    return `oklch(${light}% ${decoded ? 0.13 : 0.02} ${hue} / ${decoded ? 1 : 0.45})`;
  }

  draw(head) {
    this.head = head;
    const { canvas, frames } = this;
    const width = canvas.clientWidth, height = canvas.clientHeight, scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const shown = Math.floor(width / CELL);
    const first = Math.max(0, Math.min(Math.floor(head - shown * 0.6), frames.length - shown));
    const levels = frames[0]?.length ?? this.facts.levels;
    const row = height / levels;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    for (let t = first; t < Math.min(frames.length, first + shown + 1); t++) {
      for (let k = 0; k < levels; k++) {
        context.fillStyle = this.colour(frames[t][k], k, k < this.levels, dark);
        context.fillRect((t - first) * CELL, k * row + 1, CELL - 1, row - 2);
      }
    }
    if (frames.length) {
      context.fillStyle = getComputedStyle(canvas).color;
      context.fillRect((head - first) * CELL - 1, 0, 2, height);
    }
  }

  describe() {
    const { frames, facts } = this;
    const seconds = (frames.length / facts.frame_rate).toFixed(1);
    return `Token grid: ${frames.length} frames of ${facts.levels} codes each, ${seconds} seconds`;
  }
}
