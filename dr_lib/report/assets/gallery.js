// Every explained eye as columns, the filter over them, and the gallery's pages. The eye's page uses the same filter for its neighbours.
(() => {
  const { make, one, load } = report;
  const PAGE = 48;
  const sources = (document.body.dataset.chunks || "").split(" ").filter(Boolean);
  const total = Number(document.body.dataset.eyes || 0);
  const chunks = [];

  // Called by gallery/NNN.js, in any order.
  report.rows = (number, columns) => { chunks[number] = columns; };
  const size = () => chunks[0].key.length; // every chunk but the last is as long as the first
  const eye = (row) => {
    const chunk = chunks[Math.floor(row / size())];
    const at = row % size();
    const cell = (name) => (chunk[name] === undefined ? null : chunk[name][at]);
    return { row, key: chunk.key[at], id: chunk.id[at], stage: chunk.stage[at], predicted: chunk.predicted[at],
      gap: cell("gap"), share: cell("share"), symmetry: cell("symmetry"), fellow: cell("fellow") ?? -1 };
  };
  const loadAll = () => Promise.all(sources.map((src, number) => (chunks[number] ? null : load(src))));
  const loadTo = (count) => Promise.all(sources.slice(0, count).map((src, number) => (chunks[number] ? null : load(src))));

  // What is wanted, as the address says it: true=4&grade=wrong&order=-gap&page=2.
  const NAMES = ["find", "true", "predicted", "grade", "gap", "share"];
  const isPlain = (wanted) => !NAMES.some((name) => wanted.get(name)) && !wanted.get("order");

  const between = (text) => {
    const [low, high] = text.split("..").map((end) => (end === "" ? null : Number(end)));
    return (value) => value !== null && value !== undefined && (low === null || value > low) && (high === null || value <= high);
  };
  const GRADES = {
    right: (stage, predicted) => stage === predicted,
    wrong: (stage, predicted) => stage !== predicted,
    lower: (stage, predicted) => predicted < stage,
    higher: (stage, predicted) => predicted > stage,
    missed: (stage, predicted) => stage >= 2 && predicted < 2,
  };

  // The rows that fit, in the wanted order.
  const matching = (wanted) => {
    const find = (wanted.get("find") || "").trim().toLowerCase();
    const stage = wanted.get("true"), predicted = wanted.get("predicted"), grade = GRADES[wanted.get("grade")];
    const ranges = ["gap", "share"].filter((name) => wanted.get(name)).map((name) => [name, between(wanted.get(name))]);
    const rows = [];
    const order = wanted.get("order") || "";
    const name = order.replace(/^-/, ""), keys = [];
    let row = 0;
    for (const chunk of chunks) {
      const { id, stage: stages, predicted: grades } = chunk;
      const limits = ranges.map(([column, fits]) => [chunk[column] || [], fits]);
      for (let at = 0; at < id.length; at += 1, row += 1) {
        if (find && !id[at].toLowerCase().includes(find)) continue;
        if (stage && (stages[at] === null ? "none" : String(stages[at])) !== stage) continue;
        if (predicted && String(grades[at]) !== predicted) continue;
        if (grade && (stages[at] === null || !grade(stages[at], grades[at]))) continue;
        if (limits.some(([values, fits]) => !fits(values[at]))) continue;
        rows.push(row);
        if (name) keys[row] = name === "miss" ? (stages[at] === null ? null : Math.abs(stages[at] - grades[at])) : (chunk[name] || [])[at];
      }
    }
    if (name) {
      const turn = order.startsWith("-") ? -1 : 1;
      const key = (at) => (keys[at] === null || keys[at] === undefined ? Infinity : turn * keys[at]);
      rows.sort((a, b) => { const first = key(a), second = key(b); return first === second ? a - b : first < second ? -1 : 1; });
    }
    return rows;
  };
  report.gallery = { eye, matching, isPlain, loadAll, total, size, sources, chunks };

  if (document.body.dataset.page !== "gallery") return;

  const form = one(".filters-bar"), cards = one("#cards"), pager = one(".pager"), told = one("output", form);
  const [back, forth] = pager.querySelectorAll("button");
  const count = (number) => number.toLocaleString("en");
  let rows = null, wanted = new URLSearchParams(location.hash.slice(1));

  const picture = (src, alt, signed) => make("img", { src, alt, width: "480", height: "120", loading: "lazy", decoding: "async", class: signed ? "signed" : null });
  const card = (shown, suffix) => {
    const src = `eyes/${shown.key}.jpg`;
    const graded = make("span", { class: "graded" }, make("span", { class: "to" }, "true"), " ", report.stage(shown.stage), " ",
      make("span", { class: "to" }, "graded"), " ", report.stage(shown.predicted));
    if (shown.stage !== null && shown.stage !== shown.predicted) graded.append(" ", make("span", { class: "verdict wrong" }, "wrong"));
    const notes = [shown.gap !== null && `gap ${(100 * shown.gap).toFixed(1)}\u00a0%`, shown.share !== null && `${(100 * shown.share).toFixed(0)}\u00a0% in lesion regions`,
      shown.symmetry !== null && `0 against 4: ${shown.symmetry.toFixed(2).replace("-", "−")}`].filter(Boolean);
    return make("li", { class: "card" },
      make("a", { href: `eye.html#${shown.key}${suffix}` },
        make("span", { class: "halves" }, picture(src, `Eye ${shown.id}: photograph and preprocessed fundus`), picture(src, `Most positive and most negative neurons of eye ${shown.id}`, true)),
        make("span", { class: "name" }, shown.id)),
      graded, make("span", { class: "quiet" }, notes.join(" · ")));
  };

  const show = () => {
    const plain = isPlain(wanted);
    const known = plain ? total : rows.length;
    const pages = Math.max(1, Math.ceil(known / PAGE));
    const page = Math.min(pages, Math.max(1, Number(wanted.get("page")) || 1));
    const from = (page - 1) * PAGE;
    const here = plain ? Array.from({ length: Math.min(PAGE, total - from) }, (_, at) => from + at) : rows.slice(from, from + PAGE);
    const filter = new URLSearchParams(wanted);
    filter.delete("page");
    const suffix = plain ? "" : `?${filter}`;
    cards.replaceChildren(...here.map((row) => card(eye(row), suffix)));
    told.textContent = plain ? `${count(total)} eyes` : `${count(known)} of ${count(total)} eyes`;
    one(".none-match").hidden = known > 0;
    pager.hidden = pages < 2;
    back.disabled = page === 1;
    forth.disabled = page === pages;
    one("span", pager).textContent = `page ${count(page)} of ${count(pages)}`;
    document.body.dataset.shown = String(known); // for whoever waits: this view is complete
  };

  // The plain first page needs the first chunk only; anything else needs all.
  const update = async () => {
    const asked = wanted;
    try {
      if (isPlain(asked) && (Number(asked.get("page")) || 1) === 1) await loadTo(1);
      else await loadAll();
    } catch (error) {
      told.textContent = `${error.message} is missing from this folder: make the report again with dr report`;
      return;
    }
    if (asked !== wanted) return; // something else was asked for meanwhile
    rows = isPlain(wanted) ? null : matching(wanted);
    show();
  };
  const fill = () => { for (const field of form.elements) if (field.name) field.value = wanted.get(field.name) || ""; };
  const ask = (next, replace) => {
    wanted = next;
    const address = String(next);
    history[replace ? "replaceState" : "pushState"](null, "", address ? `#${address}` : "#");
    update();
  };
  const read = () => {
    const next = new URLSearchParams();
    for (const field of form.elements) if (field.name && field.value.trim()) next.set(field.name, field.value.trim());
    return next;
  };
  form.hidden = false;
  form.addEventListener("input", () => ask(read(), true));
  form.addEventListener("reset", () => setTimeout(() => ask(read(), true)));
  form.addEventListener("submit", (event) => event.preventDefault());
  const step = (by) => {
    const next = new URLSearchParams(wanted);
    next.set("page", String((Number(wanted.get("page")) || 1) + by));
    ask(next, false);
    form.scrollIntoView({ block: "start" });
  };
  for (const button of [back, forth]) button.addEventListener("click", () => step(Number(button.dataset.step)));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const button = { ArrowLeft: back, ArrowRight: forth }[event.key];
    if (button && !pager.hidden && !button.disabled) step(Number(button.dataset.step));
  });
  const follow = () => { wanted = new URLSearchParams(location.hash.slice(1)); fill(); update(); };
  window.addEventListener("hashchange", follow);
  window.addEventListener("popstate", follow);
  document.addEventListener("DOMContentLoaded", () => { fill(); update().then(() => setTimeout(() => loadAll().catch(() => {}), 300)); });
})();
