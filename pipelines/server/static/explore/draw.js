// Pictures on canvases, in the page's own colours and at the screen's resolution.

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Size a canvas to its box; returns its context with CSS pixels as units.
export function ready(canvas, height) {
  const width = canvas.clientWidth || 600;
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}

export function waveform(canvas, wave, { height = 90, colour = css("--plot"), from = 0, to = wave.length, keep = false } = {}) {
  const { pen, width } = keep ? { pen: canvas.getContext("2d"), width: canvas.clientWidth } : ready(canvas, height);
  const peak = wave.subarray(from, to).reduce((most, v) => Math.max(most, Math.abs(v)), 0.05);
  pen.strokeStyle = colour;
  pen.beginPath();
  const span = to - from;
  if (span < 4 * width) { // few samples: a line through them
    for (let i = 0; i < span; i++) pen.lineTo((i / span) * width, height / 2 - (wave[from + i] / peak) * height * 0.45);
  } else { // many: the highest and lowest of each column
    for (let x = 0; x < width; x++) {
      let low = 1, high = -1;
      const end = from + Math.floor(((x + 1) / width) * span);
      for (let i = from + Math.floor((x / width) * span); i < end; i++) {
        if (wave[i] < low) low = wave[i];
        if (wave[i] > high) high = wave[i];
      }
      pen.moveTo(x, height / 2 - (high / peak) * height * 0.45);
      pen.lineTo(x, height / 2 - (low / peak) * height * 0.45 + 0.5);
    }
  }
  pen.stroke();
}

// A code's colour: hue by its number, so that equal codes look equal.
export const colourOf = (code, size) => `hsl(${Math.round((360 * code) / size)} 65% 52%)`;

export function grid(canvas, codes, size, { levels = codes.length, cell = 14, selected = null, columns = codes[0].length, shift = null } = {}) {
  const rows = codes.length;
  const { pen, width } = ready(canvas, rows * cell + 2);
  const step = width / columns;
  for (let k = 0; k < rows; k++) {
    pen.globalAlpha = k < levels ? 1 : 0.15;
    for (let t = 0; t < codes[k].length; t++) {
      const code = codes[k][t];
      if (code === null || code === undefined) continue;
      pen.fillStyle = colourOf(code, size);
      pen.fillRect((t + (shift ? shift[k] : 0)) * step, k * cell + 1, Math.max(1, step - (step > 4 ? 1 : 0)), cell - 1);
    }
  }
  pen.globalAlpha = 1;
  if (selected) {
    pen.strokeStyle = css("--ink");
    pen.lineWidth = 2;
    pen.strokeRect(selected[1] * step, selected[0] * cell + 1, Math.max(3, step), cell);
  }
}

function fft(re, im) { // in place, length a power of two
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let size = 2; size <= n; size <<= 1) {
    const angle = (-2 * Math.PI) / size;
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < size / 2; k++) {
        const c = Math.cos(angle * k), s = Math.sin(angle * k);
        const a = start + k, b = a + size / 2;
        const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y;
        re[a] += x; im[a] += y;
      }
    }
  }
}

export function spectrogram(canvas, wave, height = 170) {
  const { pen, width } = ready(canvas, height);
  const window = 1024, columns = Math.min(Math.floor(width), 600);
  const image = new ImageData(columns, height);
  const re = new Float32Array(window), im = new Float32Array(window);
  for (let x = 0; x < columns; x++) {
    const middle = Math.floor((x / columns) * wave.length);
    for (let i = 0; i < window; i++) {
      re[i] = (wave[middle + i - window / 2] || 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / window));
      im[i] = 0;
    }
    fft(re, im);
    for (let y = 0; y < height; y++) {
      const bin = Math.floor(((height - 1 - y) / height) * (window / 2));
      const level = Math.log10(re[bin] ** 2 + im[bin] ** 2 + 1e-6) / 8 + 0.6; // about 0 to 1
      const v = Math.max(0, Math.min(1, level));
      const at = 4 * (y * columns + x);
      image.data[at] = 255 * Math.min(1, v * 1.6);
      image.data[at + 1] = 255 * Math.max(0, v * 1.6 - 0.5);
      image.data[at + 2] = 255 * (v < 0.5 ? 0.25 + v * 0.6 : 0.55 * (1 - v) * 2);
      image.data[at + 3] = 255;
    }
  }
  const hidden = new OffscreenCanvas(columns, height);
  hidden.getContext("2d").putImageData(image, 0, 0);
  pen.drawImage(hidden, 0, 0, width, height);
}

export function bars(canvas, values, { labels, height = 120, mark = -1 } = {}) {
  const { pen, width } = ready(canvas, height);
  const most = Math.max(...values, 1e-9), step = width / values.length;
  values.forEach((value, i) => {
    const h = (value / most) * (height - 36);
    pen.fillStyle = i === mark ? css("--second") : css("--plot");
    pen.fillRect(i * step + 4, height - 18 - h, step - 8, h);
    pen.fillStyle = css("--ink");
    pen.textAlign = "center";
    pen.fillText(labels[i], (i + 0.5) * step, height - 4);
    pen.fillText(value >= 0.1 ? value.toFixed(2) : value.toFixed(3), (i + 0.5) * step, height - 22 - h);
  });
}

export function scatter(canvas, points, { height = 320, marked = [], cross = null } = {}) {
  const { pen, width } = ready(canvas, height);
  const most = points.reduce((m, [x, y]) => Math.max(m, Math.abs(x), Math.abs(y)), 1e-9) * 1.05;
  const place = ([x, y]) => [width / 2 + (x / most) * (width / 2), height / 2 - (y / most) * (height / 2)];
  pen.fillStyle = css("--soft");
  for (const point of points) { const [x, y] = place(point); pen.fillRect(x - 1.5, y - 1.5, 3, 3); }
  for (const index of marked) {
    const [x, y] = place(points[index]);
    pen.fillStyle = css("--second");
    pen.beginPath(); pen.arc(x, y, 6, 0, 7); pen.fill();
    if (cross) {
      pen.strokeStyle = css("--second");
      pen.beginPath(); pen.moveTo(x, y); pen.lineTo(...place(cross)); pen.stroke();
    }
  }
  if (cross) {
    const [x, y] = place(cross);
    pen.strokeStyle = css("--ink"); pen.lineWidth = 2;
    pen.beginPath(); pen.moveTo(x - 7, y); pen.lineTo(x + 7, y); pen.moveTo(x, y - 7); pen.lineTo(x, y + 7); pen.stroke();
  }
  return { inverse: (px, py) => [((px - width / 2) / (width / 2)) * most, ((height / 2 - py) / (height / 2)) * most], most };
}
