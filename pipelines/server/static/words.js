// Lights up the words as they are said. Where the server has found a sentence's words in the model's attention, by
// those times; before that, and where words are spoken otherwise than written ("$5"), by the share of their letters.

const EDGE = 0.08; // seconds of quiet that a sentence begins and ends with

export class Words {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.element.classList.add("speaking");
    this.sentences = [];
  }

  begin(event) {
    const words = event.text.split(/\s+/).filter(Boolean);
    let sum = 0;
    const ends = words.map((word) => (sum += word.length + 1 + (/[,;:]$/.test(word) ? 4 : 0)));
    const spans = words.map((word) => {
      const span = document.createElement("span");
      span.className = "word";
      span.textContent = word;
      this.element.append(span, " ");
      return span;
    });
    const shares = ends.map((end) => end / sum);
    this.sentences.push({ start: event.start, seconds: event.expected_seconds, shares, spans });
  }

  end(event) { this.sentences[event.index].seconds = event.seconds; }

  times(event) {
    const sentence = this.sentences[event.index];
    if (event.words.length === sentence.spans.length) sentence.words = event.words;
  }

  light(time) {
    for (const { start, seconds, shares, spans, words } of this.sentences) {
      if (words) {
        spans.forEach((span, i) => this.#mark(span, time >= words[i].start && time < words[i].end, time >= words[i].end));
        continue;
      }
      const share = (time - start - EDGE) / Math.max(0.1, seconds - 2 * EDGE);
      spans.forEach((span, i) => {
        this.#mark(span, share >= (shares[i - 1] ?? 0) && share < shares[i], share >= shares[i]);
      });
    }
  }

  #mark(span, now, said) {
    if (now && !span.classList.contains("now")) this.#show(span);
    span.classList.toggle("now", now);
    span.classList.toggle("said", said);
  }

  #show(span) {
    const { element } = this;
    const y = span.offsetTop - element.offsetTop;
    if (y < element.scrollTop || y > element.scrollTop + element.clientHeight - 40) element.scrollTop = y - 40;
  }
}
