// One eye's page. The address says which eye, within which filter of the gallery, and what is compared:
// eye.html#00000/10_left?true=4&left=stage0&right=stage4
(() => {
  const { make, one, load, stage, STAGES } = report;
  const { decode, canvas, pen, pixels, ground, tile, overlay, takeAway } = report.draw;
  const { gallery } = report;
  const KEY = /^[0-9]{5}\/[A-Za-z0-9_.-]+$/;
  const CHOICES = ["left", "right", "scale", "layer"];
  const SIGNS = [["positive", "Most positive"], ["negative", "Most negative"]];
  const body = one(".eye-body"), trouble = one("[data-trouble]");
  const left = one("select[name=left]"), right = one("select[name=right]"), scale = one("select[name=scale]");
  const layers = make("select", { name: "layer" });
  let shown = null, redraw = () => {};

  const address = () => {
    const [key, filter = ""] = decodeURIComponent(location.hash.slice(1)).split(/\?(.*)/s);
    return { key, wanted: new URLSearchParams(filter) };
  };
  const hash = (key, wanted) => { const filter = String(wanted); return `#${key}${filter ? `?${filter}` : ""}`; };
  const say = (text) => { trouble.textContent = text; trouble.hidden = false; body.hidden = true; };

  const panel = (drawn, caption, note) => make("figure", { class: "panel" }, drawn,
    make("figcaption", {}, caption, note ? make("small", {}, ` ${note}`) : null));
  const options = (select, entries, wanted, fallback) => {
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
    const values = entries.map(([value]) => value);
    select.value = values.includes(wanted) ? wanted : values.includes(fallback) ? fallback : values[0] ?? "";
  };
  const table = ({ caption, columns, rows }) => {
    const cell = (name, text, at) => make(name, { class: columns[at][1] ? "n" : null, scope: name === "th" ? "col" : null }, text);
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...columns.map(([name], at) => cell("th", name, at)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text, at) => cell("td", text, at)))))));
  };

  const show = async (eye) => {
    const [height, width] = eye.size;
    const [photo, fundus, maps, regions] = await Promise.all([eye.photo, eye.fundus, eye.maps, eye.regions].map(decode));
    if (shown !== eye) return; // another eye was asked for meanwhile
    const { wanted } = address();
    const of = `of eye ${eye.id}`;
    const base = ground(pixels(fundus, [0, 0, width, height]));
    const map = (name) => tile(maps, eye.tiles.indexOf(name), width, height);
    const labels = Object.fromEntries(eye.outcomes.map(({ name, label }) => [name, label]));
    const whole = (image, label) => {
      const target = canvas(image.naturalWidth, image.naturalHeight, label);
      pen(target).drawImage(image, 0, 0);
      return target;
    };
    const name = (number) => (number === null ? "unknown" : `${number} ${STAGES[number][0]}`);
    const title = `${eye.id}  ·  true stage ${name(eye.stage)}  ·  graded ${name(eye.predicted)}`;

    document.title = `${eye.id} · ${document.title.split(" · ").pop()}`;
    one("[data-id]").textContent = eye.id;
    const wrong = eye.stage !== null && eye.stage !== eye.predicted;
    one("[data-graded]").replaceChildren(make("span", { class: "to" }, "labelled "), stage(eye.stage), make("span", { class: "to" }, ", graded "), stage(eye.predicted),
      ...(wrong ? [" ", make("span", { class: "verdict wrong" }, "wrong")] : []));
    one("[data-probabilities]").replaceChildren(...eye.probabilities.map((p, number) => make("li", {}, make("span", {}, name(number)),
      make("span", { class: "bar" }, make("i", { style: `width:${(100 * p).toFixed(2)}%;background:${STAGES[number][1]}` })),
      make("b", {}, `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)}\u00a0%`))));
    one("[data-facts]").replaceChildren(...eye.facts.map(([what, value]) => make("div", {}, make("dt", {}, what), make("dd", {}, value))));
    one("[data-tables]").replaceChildren(...eye.tables.map(table));
    one("#numbers").hidden = eye.tables.length === 0;

    options(layers, eye.layers.map((layer) => [layer.name, layer.name]), wanted.get("layer"));
    one("[data-layers]").replaceChildren(...(eye.layers.length > 1 ? [make("label", {}, "Layer ", layers)] : []));
    const outcomes = eye.outcomes.map(({ name: value, label }) => [value, label]);
    options(left, outcomes, wanted.get("left"), "stage0");
    options(right, outcomes, wanted.get("right"), "stage4");
    scale.value = wanted.get("scale") === "shared" ? "shared" : "own";
    one("#figure-b").hidden = outcomes.length === 0;

    const figureA = () => {
      const layer = eye.layers.find((each) => each.name === layers.value);
      const panels = [];
      if (photo) panels.push({ canvas: whole(photo, `Photograph ${of}`), caption: "Original" });
      panels.push({ canvas: whole(fundus, `Preprocessed fundus ${of}`), caption: "Preprocessed" });
      for (const [sign, words] of SIGNS) {
        if (!layer || !eye.tiles.includes(`${layer.name}/${sign}`)) continue;
        const drawn = canvas(width, height, `Summed active regions of the most ${sign} neurons ${of}, in the layer ${layer.name}`);
        overlay(drawn, base, map(`${layer.name}/${sign}`));
        panels.push({ canvas: drawn, caption: `${words} neurons`, note: layer.quantity ? `${layer.name}, ${layer.quantity}` : layer.name });
      }
      return panels;
    };
    const figureB = () => {
      const sides = [left.value, right.value];
      const scales = sides.map((side) => eye.scales[eye.tiles.indexOf(side)]);
      const panels = [{ canvas: whole(fundus, `Preprocessed fundus ${of}`), caption: "Preprocessed" }];
      const alike = correlation();
      sides.forEach((side, at) => {
        const drawn = canvas(width, height, `Attribution toward ${labels[side]} ${of}`);
        overlay(drawn, base, map(side), scale.value === "shared" ? scales[at] / Math.max(...scales) : 1);
        panels.push({ canvas: drawn, caption: `Toward ${labels[side]}`, note: at === 1 && alike ? `correlation ${alike}` : "" });
      });
      return panels;
    };
    const correlation = () => {
      if (left.value === right.value) return "";
      return eye.correlations[`${left.value}|${right.value}`] ?? eye.correlations[`${right.value}|${left.value}`] ?? "";
    };
    const side = regions ? regions.naturalWidth : 0;
    const neurons = (sign) => eye.neurons.map((neuron, number) => ({ ...neuron, number })).filter((neuron) => neuron.layer === layers.value && neuron.sign === sign).map((neuron) => {
      const [top, start, tall, wide] = neuron.window;
      const drawn = canvas(side, side, `Active region of the ${sign} neuron ${neuron.where} ${of}`);
      overlay(drawn, ground(pixels(fundus, [start, top, wide, tall], side, side)), tile(regions, neuron.number, side, side));
      drawn.title = neuron.activation === "–" ? "" : `activation ${neuron.activation}, at the baseline ${neuron.baseline}`;
      return { canvas: drawn, caption: neuron.where, note: neuron.attribution };
    });
    const put = (place, panels) => place.replaceChildren(...panels.map((each) => panel(each.canvas, each.caption, each.note)));

    let drawnA = [], drawnB = [], drawnNeurons = {};
    redraw = () => {
      drawnA = figureA();
      put(one("[data-figure-a]"), drawnA);
      if (outcomes.length) {
        drawnB = figureB();
        put(one("[data-figure-b]"), drawnB);
        const alike = correlation();
        one("[data-correlation]").textContent = alike ? `correlation ${alike}` : "";
      }
      one("[data-layer]").textContent = layers.value;
      drawnNeurons = Object.fromEntries(SIGNS.map(([sign]) => [sign, neurons(sign)]));
      one("#neurons").hidden = !SIGNS.some(([sign]) => drawnNeurons[sign].length);
      one("[data-neurons]").replaceChildren(...SIGNS.filter(([sign]) => drawnNeurons[sign].length).flatMap(([sign, words]) => {
        const grid = make("div", { class: "grid neurons" });
        put(grid, drawnNeurons[sign]);
        const take = takeAway(`${words} neurons`, () => `${eye.id}-neurons-${sign}`, () => ({ title: `${eye.id}  ·  ${words.toLowerCase()} neurons of ${layers.value}`, panels: drawnNeurons[sign] }), 5);
        return [make("h3", {}, words), grid, make("p", { class: "files" }, ...take)];
      }));
      document.body.dataset.drawn = `${eye.key} ${layers.value} ${left.value} ${right.value} ${scale.value} ${report.palette()}`; // for whoever waits
    };
    one("[data-take=figure-a]").replaceChildren(...takeAway("Fig (a)", () => `${eye.id}-figure-a-${layers.value}`, () => ({ title, panels: drawnA })));
    one("[data-take=figure-b]").replaceChildren(...takeAway("Fig (b)", () => `${eye.id}-figure-b-${left.value}-${right.value}`, () => ({ title, panels: drawnB })));
    trouble.hidden = true;
    body.hidden = false;
    redraw();
  };

  const step = (selector, target, text, wanted) => {
    const link = one(selector);
    link.hidden = !target;
    if (!target) { link.removeAttribute("href"); return; }
    link.href = hash(target.key, wanted);
    link.textContent = text(target.id);
  };
  const neighbours = async () => {
    try { await gallery.loadAll(); } catch { return; } // the eye itself is still shown
    const { key, wanted } = address();
    const filter = new URLSearchParams([...wanted].filter(([name]) => !CHOICES.includes(name)));
    one("[data-back]").href = `eyes.html${String(filter) ? `#${filter}` : ""}`;
    const at = keys().get(key);
    if (at === undefined) return;
    const rows = gallery.isPlain(filter) ? null : gallery.matching(filter);
    const place = rows ? rows.indexOf(at) : at;
    const count = rows ? rows.length : gallery.total;
    const near = (by) => {
      const next = place + by;
      if (place < 0 || next < 0 || next >= count) return null;
      return gallery.eye(rows ? rows[next] : next);
    };
    step("a[rel=prev]", near(-1), (id) => `← ${id}`, wanted);
    step("a[rel=next]", near(1), (id) => `${id} →`, wanted);
    const fellow = gallery.eye(at).fellow;
    step("[data-step=fellow]", fellow < 0 ? null : gallery.eye(fellow), (id) => `other eye: ${id}`, wanted);
    document.body.dataset.place = `${place + 1} of ${count}`;
  };
  let places = null;
  const keys = () => {
    if (!places) { places = new Map(); let row = 0; for (const chunk of gallery.chunks) for (const key of chunk.key) { places.set(key, row); row += 1; } }
    return places;
  };

  report.eye = (eye) => {
    if (eye.key !== address().key) return;
    shown = eye;
    show(eye).catch((error) => say(`${eye.id}: ${error.message}`));
    neighbours();
  };
  const follow = async () => {
    const { key, wanted } = address();
    if (shown && shown.key === key) { await show(shown); neighbours(); return; } // only what is compared has changed
    if (KEY.test(key)) {
      try { await load(`eyes/${key}.js`); if (!body.hidden) window.scrollTo(0, 0); } catch { say(`This report has no eye ${key}. All there are: see the gallery.`); }
      return;
    }
    if (!key) { say("Which eye? Choose one in the gallery."); return; }
    try { await gallery.loadAll(); } catch { /* then it is not found */ }
    for (let row = 0; row < gallery.total && gallery.chunks.length; row += 1) {
      const found = gallery.eye(row);
      if (found.id === key) { location.replace(hash(found.key, wanted)); return; }
    }
    say(`This report has no eye ${key}. All there are: see the gallery.`);
  };
  const choose = () => {
    const { key, wanted } = address();
    for (const [name, value, usual] of [["left", left.value, "stage0"], ["right", right.value, "stage4"], ["scale", scale.value, "own"], ["layer", layers.value, layers.options[0]?.value]]) {
      if (value && value !== usual) wanted.set(name, value);
      else wanted.delete(name);
    }
    history.replaceState(null, "", hash(key, wanted));
    redraw();
    neighbours();
  };
  for (const select of [left, right, scale, layers]) select.addEventListener("change", choose);
  document.addEventListener("palette", () => redraw());
  report.onArrow({ ArrowLeft: one("a[rel=prev]"), ArrowRight: one("a[rel=next]") });
  window.addEventListener("hashchange", follow);
  document.addEventListener("DOMContentLoaded", follow);
})();
