// The atlas of units: the index with its filter (units.html), and one unit's page (unit.html#mixed2/17).
// Numbers come as scripts: units/index.js calls report.units once, units/<layer>.js calls report.layer.
(() => {
  const { make, one, load, stage, ordered, STAGES } = report;
  const PAGE = 50, CROP = 80, SHOWN = 3;
  const TITLES = { for: "Speaks for the grade", against: "Speaks against the grade", excites: "Is most active" };
  let units = null;
  const layers = {};
  const transposed = ({ columns, data }) => Object.fromEntries(columns.map((name, at) => [name, data.map((row) => row[at])]));
  report.layer = (name, own, examples) => { layers[name] = { ...transposed(own), examples: transposed(examples) }; };
  // Numbers by the names that a condition may use.
  const words = (name) => name.replace(/_/g, " ");
  const named = (columns) => {
    const numbers = { mean: columns.mean_attribution, "eyes for": columns.share_for, "eyes against": columns.share_against };
    for (const [words, column] of [["stage", "median_by_predicted_stage"], ["true stage", "median_by_stage"]]) {
      STAGES.forEach((_, number) => { numbers[`${words} ${number}`] = columns[column].map((medians) => medians[number]); });
    }
    for (const [name, values] of Object.entries(columns)) {
      if (name.startsWith("auc_")) numbers[`${words(name.slice(4))} AUC`] = values;
      if (name.startsWith("place_")) numbers[words(name.slice(6))] = values;
    }
    numbers["held-out AUC"] = columns.lesion_auc_held_out || [];
    numbers["AUC against other lesions"] = columns.lesion_auc_others || [];
    const known = Object.entries(numbers).filter(([, values]) => values.some((value) => value !== null));
    const all = (start) => Object.keys(columns).filter((name) => name.startsWith(start)).map((name) => words(name.slice(start.length)));
    const none = columns.unit.map(() => null);
    return { verdict: none, page: none, ...columns, numbers: Object.fromEntries(known), lesions: all("auc_").map((name) => `${name} AUC`), places: all("place_") };
  };

  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const text = size !== 0 && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(size >= 1 ? 3 : 2)));
    return text.replace(/-/g, "−");
  };
  const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(0)}\u00a0%`);
  const cell = (name, row) => (units.numbers[name] ? units.numbers[name][row] : null);
  const address = (row) => `unit.html#${units.layer[row]}/${units.unit[row]}`;
  const title = (row) => `${units.layer[row]} · ${units.unit[row]}`;

  // A window onto a unit's picture: rows are kinds, columns pairs (fundus, photograph) by rank.
  const crop = (row, kind, rank, photo, words, lazy) => {
    const shown = make("span", { class: "crop" }, make("img", { alt: words, width: String(12 * CROP), height: String(3 * CROP), decoding: "async", loading: lazy ? "lazy" : null,
      style: `left:${-(2 * rank + (photo ? 1 : 0)) * CROP}px;top:${-kind * CROP}px` }));
    shown.firstChild.src = `${units.folder}/${units.files[units.layer[row]]}/${units.unit[row]}.jpg`;
    shown.firstChild.onerror = () => { shown.remove(); };
    return shown;
  };
  const few = (row) => make("span", { class: "crops" }, ...Array.from({ length: Math.min(SHOWN, units.shown[row]) }, (_, rank) =>
    crop(row, 0, rank, false, `What ${title(row)} sees where it speaks most for the grade, eye ${rank + 1}`, true)));

  // Medians by predicted stage as five bars around 0, on the unit's own scale.
  const NS = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes, ...children) => {
    const made = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const medians = (row) => STAGES.map((_, number) => cell(`stage ${number}`, row));
  const spark = (row) => {
    const values = medians(row), most = Math.max(...values.map((value) => Math.abs(value || 0))) || 1;
    const words = values.map((value, at) => `stage ${at}: ${number(value)}`).join(", ");
    return draw("svg", { class: "spark", viewBox: "0 0 75 28", width: "75", height: "28", role: "img", "aria-label": `median contribution by predicted stage: ${words}` },
      draw("line", { x1: 0, x2: 75, y1: 14, y2: 14, class: "axis" }),
      ...values.map((value, at) => {
        const tall = (13 * Math.abs(value || 0)) / most;
        return draw("rect", { x: 2 + 15 * at, width: 11, y: value > 0 ? 14 - tall : 14, height: Math.max(tall, 0.6), class: value === null ? "none" : value > 0 ? "pos" : "neg" },
          draw("title", {}, `stage ${at}: ${number(value)}`));
      }));
  };
  const best = (row) => units.lesions.map((name) => [name, cell(name, row)]).filter(([, value]) => value !== null)
    .sort((a, b) => Math.abs(b[1] - 0.5) - Math.abs(a[1] - 0.5))[0];
  // Where it looks more often than its area would have it: only what stands out is named.
  const AREA = { "optic disc": 0.03, vessel: 0.06, rim: 0.1, "ring 0": 0.11, "ring 1": 0.33, "ring 2": 0.56 };
  const NAMED = { "ring 0": "inner ring", "ring 1": "middle ring", "ring 2": "outer ring" };
  const looks = (row) => units.places.map((name) => [name, cell(name, row), cell(name, row) / (AREA[name] || 0.25)])
    .filter(([, value, times]) => value !== null && times > 1.5 && value > 0.1).sort((a, b) => b[2] - a[2])[0];
  const place = ([name, value]) => `${NAMED[name] || name} ${percent(value)}`;
  const lesion = ([name, value]) => `${name.replace(/ AUC$/, "")} ${value.toFixed(2)}`;

  // What is asked for: terms that each row fits or not. Throws words on a term that is not understood.
  const term = (text) => {
    const plain = text.trim().toLowerCase().replace(/\s+/g, " ");
    if (!plain) return null;
    const speaks = plain.match(/^(?:speaks )?(for|against) stage ([0-4])$/);
    if (speaks) return (row) => { const value = cell(`stage ${speaks[2]}`, row); return value !== null && (speaks[1] === "for" ? value > 0 : value < 0); };
    const asked = plain.match(/^(.+?) ?(over|above|under|below|>|<) ?([-−]?[0-9.]+(?:e[-−]?[0-9]+)?) ?(%?)$/);
    if (asked) {
      const names = Object.keys(units.numbers), wanted = asked[1].replace(/s$/, "");
      const name = names.find((each) => each.toLowerCase() === asked[1]) || names.find((each) => each.toLowerCase().startsWith(wanted)) || names.find((each) => each.toLowerCase().includes(wanted));
      if (!name) throw new Error(`There is no number called “${asked[1]}”. There are: ${names.join(", ")}.`);
      const limit = Number(asked[3].replace(/−/g, "-")) / (asked[4] ? 100 : 1), over = /over|above|>/.test(asked[2]);
      return (row) => { const value = cell(name, row); return value !== null && (over ? value > limit : value < limit); };
    }
    if (units.verdict.includes(plain)) return (row) => units.verdict[row] === plain;
    return (row) => `${units.layer[row]} ${units.unit[row]}`.toLowerCase().includes(plain.replace(/ ?[·/] ?/g, " "));
  };
  const matching = (wanted) => {
    const texts = [...(wanted.get("find") || "").split(/,| and /), ...["speaks", "tells", "verdict"].map((name) => wanted.get(name) || "")];
    const terms = texts.map(term).filter(Boolean), layer = wanted.get("layer");
    const rows = [];
    for (let row = 0; row < units.unit.length; row += 1) if ((!layer || units.layer[row] === layer) && terms.every((fits) => fits(row))) rows.push(row);
    const order = wanted.get("order") || "", name = order.replace(/^-/, "");
    if (name) ordered(rows, order, (row) => cell(name, row));
    return rows;
  };

  const index = () => {
    const form = one("form[data-units]"), table = one(".unit-index"), body = one("tbody", table), pager = one(".pager"), told = one("output", form), none = one(".none-match");
    const names = Object.keys(units.numbers);
    one("datalist", form).append(...[...names.filter((name) => /AUC/.test(name)).map((name) => `${name} over 0.7`), ...STAGES.map((_, number) => `speaks against stage ${number}`), ...new Set(units.verdict.filter(Boolean)),
      "vessel over 30\u00a0%", "optic disc over 30\u00a0%"].map((value) => make("option", { value })));
    form.elements.order.append(...names.flatMap((name) => [["-", "largest"], ["", "smallest"]].map(([sign, words]) => make("option", { value: sign + name }, `${name}, ${words} first`))));
    const line = (row) => {
      const tells = best(row), looked = looks(row), link = make("a", { href: address(row) }, title(row));
      return make("tr", {}, make("td", {}, few(row)), make("th", { scope: "row" }, link), make("td", { class: "n" }, number(cell("mean", row))),
        make("td", {}, spark(row)), ...[tells && lesion(tells), looked && place(looked), units.verdict[row]].map((words) => make("td", { class: words ? null : "absent" }, words || "–")));
    };
    const pages = report.index(form, pager, PAGE, (wanted) => {
      let rows = [];
      try { rows = matching(wanted); none.textContent = "No unit matches. Clear the filter to see all."; } catch (error) { none.textContent = error.message; }
      body.replaceChildren(...rows.slice(...pages.cut(rows.length)).map(line));
      table.hidden = rows.length === 0;
      none.hidden = rows.length > 0;
      told.textContent = `${rows.length.toLocaleString("en")} of ${units.unit.length.toLocaleString("en")} units`;
    });
    pages.follow();
  };

  // One unit.
  const histogram = (counts, medianOf, words) => {
    const bins = units.edges.length - 1, sum = (row) => row.reduce((total, count) => total + count, 0);
    const rows = Array.from({ length: counts.length / bins }, (_, at) => counts.slice(at * bins, (at + 1) * bins)).filter((row, at) => at < STAGES.length || sum(row) > 0);
    const groups = rows.length, eyes = rows.map(sum);
    const used = rows[0].map((_, bin) => rows.some((row) => row[bin] > 0));
    const low = Math.min(used.indexOf(true), (bins - 1) / 2 - 4), high = Math.max(used.lastIndexOf(true), (bins - 1) / 2 + 4);
    const left = 104, wide = 280, tall = 34, gap = 10, width = left + wide + 66, height = groups * (tall + gap) + 26;
    const x = (bin) => left + ((bin - low) / (high + 1 - low)) * wide;
    // A value's place: its bin, and how far in.
    const at = (value) => { let bin = 0; while (bin < bins - 1 && units.edges[bin + 1] <= value) bin += 1; const [from, to] = [units.edges[bin], units.edges[bin + 1]]; return x(bin + Math.min(1, Math.max(0, (value - from) / (to - from)))); };
    const names = [...STAGES.map(([name], number) => `${number} ${name}`), "unknown"];
    const drawn = rows.map((row, group) => {
      const base = group * (tall + gap) + tall + 6, most = Math.max(...row) || 1, middle = medianOf(group);
      return draw("g", {}, draw("text", { x: 0, y: base - 10 }, names[group]), draw("text", { x: 0, y: base + 4, class: "quiet" }, counted(eyes[group], "eye")),
        draw("line", { x1: left, x2: left + wide, y1: base, y2: base, class: "axis" }),
        ...row.map((count, bin) => (count && bin >= low && bin <= high ? draw("rect", { x: x(bin).toFixed(1), width: Math.max(1, x(bin + 1) - x(bin) - 0.6).toFixed(1), y: (base - (tall * count) / most).toFixed(1), height: ((tall * count) / most).toFixed(1), class: bin > (bins - 1) / 2 ? "pos" : bin < (bins - 1) / 2 ? "neg" : "none" }) : null)).filter(Boolean),
        ...(middle === null || middle === undefined ? [] : [draw("line", { x1: at(middle), x2: at(middle), y1: base - tall, y2: base + 3, class: "median" }), draw("text", { x: left + wide + 8, y: base - 4 }, number(middle))]));
    });
    const ticks = [-1, -1e-2, -1e-4, 0, 1e-4, 1e-2, 1].filter((value) => { const bin = units.edges.findIndex((edge) => edge >= value); return bin >= low && bin <= high + 1; });
    const axis = ticks.map((value) => draw("text", { x: value === 0 ? x(bins / 2) : at(value), y: height - 6, class: "quiet", "text-anchor": "middle" }, value === 0 ? "0" : number(value)));
    const summary = `${words}: ${rows.map((_, group) => (eyes[group] ? `${names[group]}, ${counted(eyes[group], "eye")}, median ${number(medianOf(group))}` : null)).filter(Boolean).join("; ")}`;
    return draw("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary }, ...drawn, ...axis);
  };
  const bars = (target, entries, scale) => target.replaceChildren(...entries.map(([name, value, words]) => make("li", {}, make("span", {}, name),
    make("span", { class: "bar" }, make("i", { style: `width:${(100 * Math.min(1, value / scale)).toFixed(1)}%` })), make("b", {}, words))));

  const unit = async () => {
    const body = one(".unit-body"), trouble = one("[data-trouble]");
    const say = (text) => { trouble.textContent = text; trouble.hidden = false; body.hidden = true; };
    const [name, of] = decodeURIComponent(location.hash.slice(1)).split(/\/(?=[^/]*$)/);
    const row = units.layer.findIndex((layer, at) => layer === name && String(units.unit[at]) === of);
    if (!name) { say("Which unit? Choose one in the index of all units."); return; }
    if (row < 0) { say(`This report has no unit ${name}/${of ?? ""}. All there are: see the index.`); return; }
    try { if (!layers[name]) await load(`units/${units.files[name]}.js`); } catch { say("A file of this report is missing: make the report again with dr report."); return; }
    const told = layers[name], at = told.unit.indexOf(units.unit[row]), shown = told.examples;
    const about = { images: told.images[at], near: told.neighbours[at], alike: told.neighbour_correlations[at], predicted: told.histogram_by_predicted_stage[at], stage: told.histogram_by_stage[at],
      examples: shown.unit.map((each, place) => (each === units.unit[row] ? Object.fromEntries(Object.entries(shown).map(([column, values]) => [column, values[place]])) : null)).filter(Boolean) };
    document.title = `${title(row)} · ${document.title.split(" · ").pop()}`;
    one("[data-id]").textContent = title(row);
    const tells = best(row), looked = looks(row), verdict = units.verdict[row], middles = medians(row).map((value, number) => [value, number]).filter(([value]) => value !== null);
    const [strong] = [...middles].sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
    one("[data-words]").textContent = [strong && strong[0] !== 0 && `Speaks most ${strong[0] > 0 ? "for" : "against"} stage ${strong[1]} (median ${number(strong[0])})`,
      `for the grade in ${percent(cell("eyes for", row))} of ${counted(about.images, "eye")}`, tells && `best at ${lesion(tells)} AUC`.replace(/ ([0-9.]+) AUC/, ", AUC $1"), looked && `looks at the ${place(looked)}`.replace(/(\d+)/, "in $1"), verdict && `${verdict} when the answer changes`].filter(Boolean).join("; ") + ".";
    for (const [rel, next] of [["prev", row - 1], ["next", row + 1]]) {
      const link = one(`a[rel=${rel}]`);
      link.hidden = next < 0 || next >= units.unit.length;
      if (!link.hidden) { link.href = address(next); link.textContent = rel === "prev" ? `← ${title(next)}` : `${title(next)} →`; }
    }
    one("[data-examples]").replaceChildren(...units.kinds.map((kind, number_) => {
      const own = about.examples.filter((each) => each.kind === kind);
      if (!own.length) return null;
      return make("section", {}, make("h2", {}, TITLES[kind]), make("ul", { class: "examples" }, ...own.map(({ rank, key, image_id: id, value, stage: truth, predicted_stage: graded, photo }) => make("li", {},
        make("a", { href: `eye.html#${key}` }, make("span", { class: "crops" }, crop(row, number_, rank, false, `Fundus of eye ${id} where the unit is strongest`), photo ? crop(row, number_, rank, true, `The same place in its photograph`) : null), make("span", { class: "name" }, id)),
        make("span", { class: "quiet" }, `${kind === "excites" ? "activation" : "contributes"} ${number(value)}`),
        make("span", { class: "quiet" }, "true ", stage(truth)), make("span", { class: "quiet" }, "graded ", stage(graded))))));
    }).filter(Boolean));
    for (const [group, words, column] of [["predicted", "By predicted stage", "stage"], ["stage", "By true stage", "true stage"]]) {
      const drawn = histogram(about[group], (number) => cell(`${column} ${number}`, row), words);
      one(`[data-histogram=${group}]`).replaceChildren(make("figcaption", {}, make("b", {}, words)), drawn);
    }
    const lesions = units.lesions.map((each) => [each.replace(/ AUC$/, ""), cell(each, row)]).filter(([, value]) => value !== null);
    one("[data-lesions]").hidden = !lesions.length;
    bars(one("[data-lesions] [data-list]"), lesions.map(([each, value]) => [each, value, value.toFixed(2)]), 1);
    const held = cell("held-out AUC", row), others = cell("AUC against other lesions", row);
    one("[data-held]").textContent = [held !== null && `Held out (the type chosen on half of the patients, measured on the others): ${held.toFixed(2)}.`, others !== null && `Its best type against other lesions: ${others.toFixed(2)}.`].filter(Boolean).join(" ");
    const places = units.places.map((each) => [NAMED[each] || each, cell(each, row)]).filter(([, value]) => value !== null);
    one("[data-places]").hidden = !places.length;
    bars(one("[data-places] [data-list]"), places.map(([each, value]) => [each, value, percent(value)]), 1);
    const judged = one("[data-verdict]");
    judged.hidden = !verdict;
    one("p", judged).replaceChildren(`Along adversarial examples the unit is ${verdict}. `, make("a", { href: units.page[row] ? `units/${units.files[name]}-${of}.html` : "linearity.html" }, units.page[row] ? "Its part in the study of linearity" : "The study of linearity"));
    const first = row - units.unit[row];
    one("[data-near]").hidden = !about.near.length;
    one(".near").replaceChildren(...about.near.map((other, at) => make("li", { class: "card" }, make("a", { href: address(first + other) }, few(first + other), make("span", { class: "name" }, title(first + other))), make("span", { class: "quiet" }, `correlation ${about.alike[at].toFixed(2).replace("-", "−")}`))));
    trouble.hidden = true;
    body.hidden = false;
    window.scrollTo(0, 0);
    document.body.dataset.drawn = `${name}/${of}`; // for whoever waits
  };

  report.units = (about, columns) => {
    units = { ...about, ...named(transposed(columns)) };
    if (document.body.dataset.page !== "unit") { index(); return; }
    window.addEventListener("hashchange", unit);
    report.onArrow({ ArrowLeft: one("a[rel=prev]"), ArrowRight: one("a[rel=next]") });
    unit();
  };
})();
