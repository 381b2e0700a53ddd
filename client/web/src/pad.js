/** The drawing area: strokes by mouse, finger or pen, or an image. */

/** @typedef {{x: number, y: number}} Point relative to the pad's side, 0 to 1 */
/** @typedef {Point[]} Stroke */

// Width of the pen relative to the pad, close to that of MNIST's pens.
const PEN = 0.075;
// Side of the drawing that models get. It doesn't depend on the screen.
const SIDE = 280;
const REST = 120;
// Duration of an example, in milliseconds.
const EXAMPLE = 700;

export class Pad {
  /** Whether strokes can be drawn. */
  enabled = true;
  #canvas;
  #screen;
  #drawing;
  #changed;
  /** @type {Stroke[]} */
  #strokes = [];
  /** @type {ImageBitmap | null} */
  #bitmap = null;
  /** @type {number | null} */
  #pointer = null;
  #moved = -Infinity;
  #playing = false;
  #turn = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} changed
   */
  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#screen = context(canvas, {});
    const drawing = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
    this.#drawing = context(drawing, { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#up(event));
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
    this.#redraw();
  }

  /** Whether there are no strokes. */
  get empty() {
    return !this.#strokes.length;
  }

  /** Whether the pen is moving. */
  get busy() {
    return (this.#pointer !== null || this.#playing) && performance.now() - this.#moved < REST;
  }

  /** The strokes, dark on white. */
  get drawing() {
    return this.#drawing.getImageData(0, 0, SIDE, SIDE);
  }

  /** Remove the strokes and the image. */
  clear() {
    this.#strokes = [];
    this.#bitmap?.close();
    this.#bitmap = null;
    this.#stop();
    this.#redraw();
    this.#changed();
  }

  /** Remove the last stroke, or the image. */
  undo() {
    if (this.#bitmap) return this.clear();
    this.#stop();
    this.#strokes.pop();
    this.#redraw();
    this.#changed();
  }

  /**
   * Show an image instead of strokes.
   *
   * @param {ImageBitmap} bitmap
   */
  show(bitmap) {
    this.clear();
    this.#bitmap = bitmap;
    this.#redraw();
  }

  /**
   * Draw strokes point by point, or at once if the user prefers less motion.
   *
   * @param {Stroke[]} strokes
   */
  play(strokes) {
    this.clear();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#strokes = strokes;
      this.#redraw();
      this.#changed();
      return;
    }
    const points = strokes.flatMap((stroke) => stroke.map((point, index) => ({ point, first: !index })));
    const turn = this.#turn;
    this.#playing = true;
    const begin = performance.now();
    let drawn = 0;
    /** @param {number} now */
    const step = (now) => {
      if (turn !== this.#turn) return;
      const until = Math.min(points.length, Math.ceil(((now - begin) / EXAMPLE) * points.length));
      for (; drawn < until; drawn++) this.#extend(points[drawn].point, points[drawn].first);
      this.#moved = performance.now();
      this.#playing = drawn < points.length;
      this.#changed();
      if (this.#playing) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  /** End the example that is being drawn. */
  #stop() {
    this.#playing = false;
    this.#turn++;
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.enabled || this.#pointer !== null || (event.pointerType === "mouse" && event.button !== 0)) return;
    event.preventDefault();
    if (this.#bitmap) this.clear();
    this.#stop();
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#add([event], true);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.#add(events.length ? events : [event], false);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#changed();
  }

  /**
   * @param {PointerEvent[]} events
   * @param {boolean} first
   */
  #add(events, first) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    this.#moved = performance.now();
    for (const { clientX, clientY } of events) {
      this.#extend({ x: (clientX - left) / width, y: (clientY - top) / height }, first);
      first = false;
    }
    this.#changed();
  }

  /**
   * @param {Point} point
   * @param {boolean} first whether the point begins a stroke
   */
  #extend(point, first) {
    if (first) this.#strokes.push([]);
    const stroke = this.#strokes[this.#strokes.length - 1];
    const last = stroke.at(-1) ?? point;
    stroke.push(point);
    for (const target of [this.#screen, this.#drawing]) line(target, last, point);
  }

  #resize() {
    const side = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (!side || side === this.#canvas.width) return;
    this.#canvas.width = this.#canvas.height = side;
    this.#redraw();
  }

  #redraw() {
    const { width, height } = this.#canvas;
    this.#screen.clearRect(0, 0, width, height);
    this.#drawing.fillStyle = "white";
    this.#drawing.fillRect(0, 0, SIDE, SIDE);
    for (const [target, colour] of /** @type {const} */ ([
      [this.#screen, getComputedStyle(this.#canvas).color],
      [this.#drawing, "black"],
    ])) {
      target.strokeStyle = colour;
      target.lineCap = target.lineJoin = "round";
      target.lineWidth = PEN * target.canvas.width;
      for (const stroke of this.#strokes) {
        stroke.forEach((point, index) => line(target, stroke[Math.max(0, index - 1)], point));
      }
    }
    if (this.#bitmap) {
      const scale = Math.min(width / this.#bitmap.width, height / this.#bitmap.height);
      const [wide, high] = [this.#bitmap.width * scale, this.#bitmap.height * scale];
      this.#screen.imageSmoothingQuality = "high";
      this.#screen.drawImage(this.#bitmap, (width - wide) / 2, (height - high) / 2, wide, high);
    }
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasRenderingContext2DSettings} settings
 */
function context(canvas, settings) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", settings));
}

/**
 * @param {CanvasRenderingContext2D} target
 * @param {Point} from
 * @param {Point} to
 */
function line(target, from, to) {
  const side = target.canvas.width;
  target.beginPath();
  target.moveTo(from.x * side, from.y * side);
  target.lineTo(to.x * side, to.y * side);
  target.stroke();
}
