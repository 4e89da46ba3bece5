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
    if (name) report.ordered(rows, order, (at) => keys[at]);
    return rows;
  };
  report.gallery = { eye, matching, isPlain, loadAll, total, size, sources, chunks };

  if (document.body.dataset.page !== "gallery") return;

  const form = one(".filters-bar"), cards = one("#cards"), pager = one(".pager"), told = one("output", form);
  const count = (number) => number.toLocaleString("en");
  let wanted = null;

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
    const plain = isPlain(wanted), rows = plain ? null : matching(wanted), known = plain ? total : rows.length;
    const [from, to] = pages.cut(known);
    const here = plain ? Array.from({ length: to - from }, (_, at) => from + at) : rows.slice(from, to);
    const filter = new URLSearchParams(wanted);
    filter.delete("page");
    const suffix = plain ? "" : `?${filter}`;
    cards.replaceChildren(...here.map((row) => card(eye(row), suffix)));
    told.textContent = plain ? `${count(total)} eyes` : `${count(known)} of ${count(total)} eyes`;
    one(".none-match").hidden = known > 0;
  };

  // The plain first page needs the first chunk only; anything else needs all.
  const pages = report.index(form, pager, PAGE, async (asked) => {
    wanted = asked;
    try {
      if (isPlain(asked) && (Number(asked.get("page")) || 1) === 1) await loadTo(1);
      else await loadAll();
    } catch (error) {
      told.textContent = `${error.message} is missing from this folder: make the report again with dr report`;
      return;
    }
    if (asked === wanted) show(); // nothing else was asked for meanwhile
  });
  document.addEventListener("DOMContentLoaded", () => pages.follow().then(() => setTimeout(() => loadAll().catch(() => {}), 300)));
})();
