// Maps on canvases, from data: the same drawing as dr_lib/drawing/figures.py `overlay`, in either palette; and figures to take away.
(() => {
  const { make } = report;
  // The constants of dr_lib/drawing/figures.py, so that they have one home.
  const { palettes, darkened, opacity: OPACITY, gamma: GAMMA, steps: STEPS } = JSON.parse(document.body.dataset.drawing);

  const decode = (uri) => (uri === null ? Promise.resolve(null) : new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("a picture of this eye is damaged"));
    image.src = uri;
  }));
  const canvas = (width, height, label) => {
    const made = make("canvas", { role: "img", "aria-label": label });
    made.width = width;
    made.height = height;
    return made;
  };
  const pen = (target) => target.getContext("2d", { willReadFrequently: true });

  // A picture's pixels, or those of a window of it (left, top, width, height) at another size.
  const pixels = (image, [left, top, width, height], toWidth = width, toHeight = height) => {
    const target = canvas(toWidth, toHeight, "");
    const context = pen(target);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, left, top, width, height, 0, 0, toWidth, toHeight);
    return context.getImageData(0, 0, toWidth, toHeight).data;
  };
  // The darkened grey ground below a map.
  const ground = (rgba) => Float32Array.from({ length: rgba.length / 4 }, (_, at) =>
    darkened * (0.299 * rgba[4 * at] + 0.587 * rgba[4 * at + 1] + 0.114 * rgba[4 * at + 2]));
  // One map of a strip of maps, as signed opacity.
  const tile = (strip, number, width, height) => {
    const rgba = pixels(strip, [0, number * height, width, height]);
    return Float32Array.from({ length: width * height }, (_, at) => {
      const steps = rgba[4 * at] - 128;
      return Math.abs(steps) < 3 ? 0 : (steps * OPACITY) / STEPS; // JPEG's own ripples around nothing
    });
  };
  // Draws a map over its ground. `weaker`: its own scale over the one it is drawn on, at most 1.
  const overlay = (target, base, map, weaker = 1) => {
    const [positive, negative] = palettes[report.palette()];
    const factor = weaker ** GAMMA;
    const context = pen(target);
    const drawn = context.createImageData(target.width, target.height);
    for (let at = 0; at < map.length; at += 1) {
      const cover = Math.min(OPACITY, Math.abs(map[at]) * factor), colour = map[at] > 0 ? positive : negative;
      for (let channel = 0; channel < 3; channel += 1) drawn.data[4 * at + channel] = base[at] + cover * (colour[channel] - base[at]);
      drawn.data[4 * at + 3] = 255;
    }
    context.putImageData(drawn, 0, 0);
  };

  // Figures to take away. panels: [{canvas, caption, note}].
  const SIDE = 512, GAP = 24, MARGIN = 40, SANS = "Inter, system-ui, 'Segoe UI', Roboto, Arial, sans-serif";
  const layout = (panels, columns) => {
    const across = Math.min(columns, panels.length), down = Math.ceil(panels.length / across), foot = panels.some((one) => one.note) ? 84 : 52;
    return { width: 2 * MARGIN + across * (SIDE + GAP) - GAP, height: 2 * MARGIN + 64 + down * (SIDE + foot),
      places: panels.map((one, at) => ({ ...one, x: MARGIN + (at % across) * (SIDE + GAP), y: MARGIN + 64 + Math.floor(at / across) * (SIDE + foot) })) };
  };
  const toPng = (title, panels, columns) => {
    const { width, height, places } = layout(panels, columns);
    const target = canvas(width, height, title), context = pen(target);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    const words = (text, x, y, font, colour) => { context.font = `${font} ${SANS}`; context.fillStyle = colour; context.fillText(text, x, y); };
    words(title, MARGIN, MARGIN + 30, "600 30px", "#18202a");
    context.imageSmoothingQuality = "high";
    for (const { canvas: drawn, caption, note, x, y } of places) {
      context.drawImage(drawn, x, y, SIDE, SIDE);
      words(caption, x, y + SIDE + 36, "400 26px", "#18202a");
      if (note) words(note, x, y + SIDE + 70, "400 22px", "#626c76");
    }
    return new Promise((done) => { target.toBlob(done, "image/png"); });
  };
  const escaped = (text) => text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
  const toSvg = async (title, panels, columns) => {
    const { width, height, places } = layout(panels, columns);
    const words = (text, x, y, size, colour, weight = 400) => `<text x="${x}" y="${y}" font-size="${size}" font-weight="${weight}" fill="${colour}">${escaped(text)}</text>`;
    const body = places.map(({ canvas: drawn, caption, note, x, y }) =>
      `<image x="${x}" y="${y}" width="${SIDE}" height="${SIDE}" href="${drawn.toDataURL("image/png")}"/>`
      + words(caption, x, y + SIDE + 36, 26, "#18202a") + (note ? words(note, x, y + SIDE + 70, 22, "#626c76") : ""));
    return new Blob([`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width / 2}" height="${height / 2}" font-family="${escaped(SANS)}">`
      + `<rect width="${width}" height="${height}" fill="#fff"/>${words(title, MARGIN, MARGIN + 30, 30, "#18202a", 600)}${body.join("")}</svg>\n`], { type: "image/svg+xml" });
  };
  // Two buttons that make a figure as it is shown now, in the chosen colours.
  const takeAway = (what, name, describe, columns = 4) => [["PNG", toPng], ["SVG", toSvg]].map(([kind, draw]) =>
    make("button", { type: "button", class: "take", "aria-label": `${what} as ${kind}`, onclick: async () => {
      const { title, panels } = describe();
      const address = URL.createObjectURL(await draw(title, panels, columns));
      make("a", { href: address, download: `${name()}.${kind.toLowerCase()}` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    } }, kind));

  report.draw = { decode, canvas, pen, pixels, ground, tile, overlay, takeAway, toPng, toSvg };
})();
