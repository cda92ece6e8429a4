"use strict";
// The slice viewer: volumes come with the page as PNG pictures of 8-bit voxels (see viewer.py).
// Axes are RAS; slices are drawn in neurological convention, as the page's other pictures.

const PLANES = [
  { name: "Axial", cut: 2, across: 0, up: 1, edges: ["L", "R"] },
  { name: "Coronal", cut: 1, across: 0, up: 2, edges: ["L", "R"] },
  { name: "Sagittal", cut: 0, across: 1, up: 2, edges: ["P", "A"] },
];
const AXES = ["x", "y", "z"];
const SCALE = 3; // canvas pixels per voxel of the finest axis

function ramp(stops) {
  const table = new Uint8Array(768);
  for (let i = 0; i < 256; i++) {
    const t = (i / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(t), stops.length - 2);
    for (let c = 0; c < 3; c++)
      table[3 * i + c] = stops[k][c] + (t - k) * (stops[k + 1][c] - stops[k][c]);
  }
  return table;
}
const GREY = ramp([[0, 0, 0], [255, 255, 255]]);
const SIGNED = ramp([[140, 220, 255], [20, 120, 225], [34, 37, 42], [215, 80, 15], [255, 215, 110]]);
const ALIKE = ramp([[255, 235, 130], [225, 85, 110], [90, 45, 110], [34, 37, 42]]);

async function levels(bundle, layer) {
  const image = new Image();
  image.src = "data:image/png;base64," + layer.png;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const [nx, ny, nz] = bundle.shape;
  const out = new Uint8Array(nx * ny * nz);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  for (let z = 0; z < nz; z++) {
    const left = (z % bundle.columns) * nx, top = Math.floor(z / bundle.columns) * ny;
    for (let y = 0; y < ny; y++) {
      const from = 4 * ((top + ny - 1 - y) * canvas.width + left), to = nx * (y + ny * z);
      for (let x = 0; x < nx; x++) out[to + x] = pixels[from + 4 * x];
    }
  }
  return out;
}

class Viewer {
  constructor(root, bundle) {
    this.root = root;
    this.bundle = bundle;
    this.shape = bundle.shape;
    this.at = this.shape.map((n, axis) => Math.round(n * [0.46, 0.5, 0.55][axis]));
    this.planes = [];
    this.pending = false;
  }

  async load() {
    this.data = {};
    this.ranges = {};
    await Promise.all(this.bundle.layers.map(async (layer) => {
      this.ranges[layer.name] = layer.range;
      this.data[layer.name] = await levels(this.bundle, layer);
    }));
    this.root.querySelectorAll("[data-plane]").forEach((figure) => this.addPlane(figure));
    for (const input of this.root.querySelectorAll("[data-control]"))
      input.addEventListener("input", () => this.changed());
    this.root.querySelector("[data-reset]").addEventListener("click", () => this.reset());
    this.root.querySelector("[data-swap]").addEventListener("click", () => this.swap());
    this.root.dataset.ready = "";
    this.changed();
  }

  control(name) {
    return this.root.querySelector(`[data-control="${name}"]`);
  }

  shown() {
    return this.control("show").value;
  }

  addPlane(figure) {
    const plane = PLANES[Number(figure.dataset.plane)];
    const canvas = figure.querySelector("canvas");
    const slider = figure.querySelector("input");
    const spacing = this.bundle.spacing, fine = Math.min(...spacing);
    canvas.width = Math.round((this.shape[plane.across] * spacing[plane.across] / fine) * SCALE);
    canvas.height = Math.round((this.shape[plane.up] * spacing[plane.up] / fine) * SCALE);
    slider.max = this.shape[plane.cut] - 1;
    slider.addEventListener("input", () => this.go(plane.cut, Number(slider.value)));
    const picture = document.createElement("canvas");
    picture.width = this.shape[plane.across];
    picture.height = this.shape[plane.up];
    this.planes.push({ plane, figure, canvas, slider, picture, context: picture.getContext("2d") });
    this.listen(plane, canvas);
  }

  listen(plane, canvas) {
    let drag = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const across = ((event.clientX - box.left) / box.width) * this.shape[plane.across];
      const up = (1 - (event.clientY - box.top) / box.height) * this.shape[plane.up];
      this.move(plane.across, Math.floor(across), plane.up, Math.floor(up));
    };
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drag = { window: event.button === 2 || event.shiftKey, x: event.clientX, y: event.clientY };
      if (!drag.window) place(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      if (!drag.window) return place(event);
      this.nudge("window", (event.clientX - drag.x) / 2);
      this.nudge("level", (drag.y - event.clientY) / 2);
      drag.x = event.clientX;
      drag.y = event.clientY;
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, () => (drag = null));
    canvas.addEventListener("wheel", (event) => {
      // With the keys of a zoom, or over a canvas that is not focused, the page scrolls.
      if (event.ctrlKey || document.activeElement !== canvas) return;
      event.preventDefault();
      this.go(plane.cut, this.at[plane.cut] + (event.deltaY > 0 ? -1 : 1));
    }, { passive: false });
    const keys = {
      ArrowLeft: [plane.across, -1], ArrowRight: [plane.across, 1],
      ArrowUp: [plane.up, 1], ArrowDown: [plane.up, -1],
      PageUp: [plane.cut, 1], PageDown: [plane.cut, -1],
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.key === " ") {
        event.preventDefault();
        return this.swap();
      }
      const step = keys[event.key];
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      this.go(step[0], this.at[step[0]] + step[1] * (event.shiftKey ? 10 : 1));
    });
  }

  go(axis, index) {
    this.move(axis, index);
  }

  move(...pairs) {
    for (let i = 0; i < pairs.length; i += 2)
      this.at[pairs[i]] = Math.max(0, Math.min(this.shape[pairs[i]] - 1, pairs[i + 1]));
    this.changed();
  }

  nudge(name, by) {
    const input = this.control(name);
    input.value = Number(input.value) + by;
    this.changed();
  }

  swap() {
    const show = this.control("show"), other = this.control("compare");
    if (!other.value) {
      // Nothing to compare with: blink between before and after.
      show.value = show.value === "source" ? "harmonized" : "source";
    } else {
      [show.value, other.value] = [other.value, show.value];
    }
    this.changed();
  }

  reset() {
    for (const input of this.root.querySelectorAll("[data-control]")) {
      if (input.tagName === "SELECT")
        for (const option of input.options) option.selected = option.defaultSelected;
      else input.value = input.defaultValue;
    }
    this.at = this.shape.map((n, axis) => Math.round(n * [0.46, 0.5, 0.55][axis]));
    this.changed();
  }

  changed() {
    this.root.classList.toggle("comparing", this.control("compare").value !== "");
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  // 256 colours for a layer's levels, or for 256 + (after - before).
  palette(name) {
    const window = Number(this.control("window").value) / 100;
    const level = Number(this.control("level").value) / 100;
    const size = name === "difference" ? 511 : 256;
    const table = new Uint8Array(3 * size);
    const colours = name === "difference" ? SIGNED : name === "ncc" ? ALIKE : GREY;
    const [low, high] = this.ranges[name] || this.ranges.source;
    for (let i = 0; i < size; i++) {
      let t;
      if (name === "difference") t = 0.5 + (((i - 255) / 254) * (high - low)) / (0.6 * window);
      else if (name === "ncc") t = 1 - (1 - (i - 1) / 254) / (0.5 * window);
      else t = (low + ((i - 1) / 254) * (high - low) - level) / window + 0.5;
      const k = Math.round(255 * Math.max(0, Math.min(1, t)));
      table.set(colours.subarray(3 * k, 3 * k + 3), 3 * i);
    }
    return table;
  }

  draw() {
    const names = [this.shown(), this.control("compare").value];
    const palettes = names.map((name) => name && this.palette(name));
    const border = Number(this.control("swipe").value) / 100;
    for (const view of this.planes) this.drawPlane(view, names, palettes, border);
    this.scales(names);
    this.tell();
  }

  drawPlane(view, names, palettes, border) {
    const { plane, canvas, picture, context, slider } = view;
    const [nx, ny] = this.shape;
    const step = [1, nx, nx * ny];
    const width = picture.width, height = picture.height;
    const image = context.createImageData(width, height);
    const split = names[1] ? Math.round(border * width) : width;
    const base = this.at[plane.cut] * step[plane.cut];
    const { source, harmonized } = this.data;
    for (let row = 0; row < height; row++) {
      const start = base + (height - 1 - row) * step[plane.up];
      for (let column = 0; column < width; column++) {
        const side = column < split ? 0 : 1;
        const voxel = start + column * step[plane.across];
        const to = 4 * (row * width + column);
        image.data[to + 3] = 255;
        const name = names[side];
        const value = name === "difference"
          ? source[voxel] && 255 + harmonized[voxel] - source[voxel]
          : this.data[name][voxel];
        if (!value) continue;
        for (let c = 0; c < 3; c++) image.data[to + c] = palettes[side][3 * value + c];
      }
    }
    context.putImageData(image, 0, 0);
    const out = canvas.getContext("2d");
    out.imageSmoothingEnabled = true;
    out.drawImage(picture, 0, 0, canvas.width, canvas.height);
    this.mark(view, out, names[1] ? split / width : null);
    slider.value = this.at[plane.cut];
    slider.setAttribute("aria-valuetext", `${AXES[plane.cut]} ${this.millimetres(plane.cut)} mm`);
  }

  mark(view, out, border) {
    const { plane, canvas } = view;
    const x = ((this.at[plane.across] + 0.5) / this.shape[plane.across]) * canvas.width;
    const y = (1 - (this.at[plane.up] + 0.5) / this.shape[plane.up]) * canvas.height;
    out.strokeStyle = "rgba(95,220,140,.75)";
    out.lineWidth = 1.5;
    out.beginPath();
    for (const [a, b, c, d] of [
      [x, 0, x, y - 12], [x, y + 12, x, canvas.height],
      [0, y, x - 12, y], [x + 12, y, canvas.width, y],
    ]) {
      out.moveTo(a, b);
      out.lineTo(c, d);
    }
    out.stroke();
    if (border !== null) {
      out.fillStyle = "#ffd54a";
      out.fillRect(border * canvas.width - 1, 0, 2, canvas.height);
    }
    const unit = canvas.width / (canvas.clientWidth || canvas.width); // of the screen
    out.fillStyle = "#e6eaf0";
    out.font = `bold ${14 * unit}px system-ui, sans-serif`;
    out.textAlign = "left";
    out.fillText(plane.edges[0], 6 * unit, 17 * unit);
    out.textAlign = "right";
    out.fillText(plane.edges[1], canvas.width - 6 * unit, 17 * unit);
    if (border === null || canvas.clientWidth < 220) return;
    // Which side of the line is which.
    const labels = ["show", "compare"].map((name) => this.control(name).selectedOptions[0].text);
    out.font = `${13 * unit}px system-ui, sans-serif`;
    out.fillText(labels[1], canvas.width - 6 * unit, canvas.height - 7 * unit);
    out.textAlign = "left";
    out.fillText(labels[0], 6 * unit, canvas.height - 7 * unit);
  }

  // What the colours of differences and correlations mean, in the window that is set.
  scales(names) {
    const window = Number(this.control("window").value) / 100;
    const ends = {
      difference: [`\u2212${Math.round(30 * window)} %`, `+${Math.round(30 * window)} %`],
      ncc: [(1 - 0.5 * window).toFixed(2), "1"],
    };
    for (const scale of this.root.querySelectorAll("[data-scale]")) {
      scale.hidden = !names.includes(scale.dataset.scale);
      scale.querySelectorAll("b").forEach((end, i) => {
        end.textContent = ends[scale.dataset.scale][i];
      });
    }
  }

  millimetres(axis) {
    const mm = this.bundle.origin[axis] + this.at[axis] * this.bundle.spacing[axis];
    return String(Math.round(mm)).replace("-", "\u2212");
  }

  value(name) {
    const [nx, ny] = this.shape;
    const level = this.data[name][this.at[0] + nx * (this.at[1] + ny * this.at[2])];
    const [low, high] = this.ranges[name];
    return level ? low + ((level - 1) / 254) * (high - low) : null;
  }

  tell() {
    const where = AXES.map((axis, i) => `${axis} ${this.millimetres(i)}`).join(", ") + " mm";
    const before = this.value("source"), after = this.value("harmonized");
    const parts = [];
    if (before === null) parts.push("outside the brain");
    else {
      const change = 100 * (after - before);
      const sign = change < 0 ? "\u2212" : "+";
      parts.push(`source ${before.toFixed(2)}`, `harmonized ${after.toFixed(2)}`);
      parts.push(`change ${sign}${Math.abs(change).toFixed(0)} %`);
      if (this.data.target && this.value("target") !== null)
        parts.push(`target mean ${this.value("target").toFixed(2)}`);
      if (this.data.ncc && this.value("ncc") !== null)
        parts.push(`local correlation ${this.value("ncc").toFixed(2)}`);
    }
    this.root.querySelector("output").textContent = `${where}: ${parts.join(" · ")}`;
  }
}

function start(root) {
  const text = document.getElementById(root.dataset.viewer).textContent;
  new Viewer(root, JSON.parse(text)).load().catch(() => {
    root.querySelector("output").textContent =
      "This browser cannot show the viewer: the pictures below show the same.";
  });
}

for (const note of document.querySelectorAll("[data-scriptless]")) note.hidden = true;

for (const root of document.querySelectorAll("[data-viewer]")) {
  root.hidden = false;
  // Decoding takes a moment: only what comes near the screen is decoded.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    start(root);
  }, { rootMargin: "600px" }).observe(root);
}

// What the viewer shows better is folded away, but printed.
const folded = document.querySelectorAll("details[data-mosaics]");
for (const details of folded) details.open = false;
addEventListener("beforeprint", () => {
  for (const details of folded) details.open = true;
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.innerText);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected: copy it with your keyboard";
    }
  });
}
