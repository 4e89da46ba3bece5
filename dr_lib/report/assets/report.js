// What every page shares: the switch of colours, data that arrive as scripts, paper. Other scripts add to `report`.
"use strict";
const report = (() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector, within = document) => within.querySelector(selector);

  // An element with its attributes and children; text is always text.
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name in made && typeof value !== "string") made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  // A page opened from disk may run a script beside it, but may not read a file: so data are scripts.
  const load = (src) => new Promise((done, failed) => {
    document.head.append(make("script", { src, onload: done, onerror: () => failed(new Error(src)) }));
  });

  // Colours: remembered for every page of this report, where the browser allows it.
  const remembered = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("palette", value);
      return localStorage.getItem("palette");
    } catch { return value; } // a file opened from disk may not remember
  };
  const palette = () => document.documentElement.dataset.palette || "green-red";
  const paint = (name) => {
    document.documentElement.dataset.palette = name;
    document.dispatchEvent(new CustomEvent("palette"));
  };
  const box = document.getElementById("palette");
  box.closest("label").hidden = false;
  box.checked = remembered() === "blue-orange";
  paint(box.checked ? "blue-orange" : "green-red");
  box.addEventListener("change", () => paint(remembered(box.checked ? "blue-orange" : "green-red")));

  // Stages as every page writes them.
  const STAGES = JSON.parse(document.documentElement.dataset.stages).map(([, name, colour]) => [name, colour]);
  const stage = (number) => make("span", { class: "stage" }, ...(number === null ? ["not labelled"] : [
    make("i", { style: `background:${STAGES[number][1]}` }), `${number} ${STAGES[number][0]}`]));

  // An index: a filter, and its rows in pages of `size`. What is asked for stands in the address (#grade=wrong&page=2), so that a view can be kept and sent.
  // update(wanted) shows it; it calls cut(rows) for the range of the page that is asked for.
  const index = (form, pager, size, update) => {
    const fields = [...form.elements].filter((field) => field.name), [back, forth] = pager.querySelectorAll("button");
    let wanted = null;
    const ask = (next, replace) => {
      history[replace ? "replaceState" : "pushState"](null, "", String(next) ? `#${next}` : "#");
      update(wanted = next);
    };
    const read = () => ask(new URLSearchParams(fields.map((field) => [field.name, field.value.trim()]).filter(([, value]) => value)), true);
    const turn = (by) => {
      const next = new URLSearchParams(wanted);
      next.set("page", String((Number(wanted.get("page")) || 1) + by));
      ask(next, false);
      form.scrollIntoView({ block: "start" });
    };
    const follow = () => {
      wanted = new URLSearchParams(location.hash.slice(1));
      for (const field of fields) field.value = wanted.get(field.name) || "";
      return update(wanted);
    };
    form.hidden = false;
    form.addEventListener("input", read);
    form.addEventListener("reset", () => setTimeout(read));
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const button of [back, forth]) button.addEventListener("click", () => turn(Number(button.dataset.step)));
    onArrow({ ArrowLeft: back, ArrowRight: forth });
    window.addEventListener("hashchange", follow);
    window.addEventListener("popstate", follow);
    const cut = (count) => {
      const pages = Math.max(1, Math.ceil(count / size)), page = Math.min(pages, Math.max(1, Number(wanted.get("page")) || 1));
      pager.hidden = pages < 2;
      back.disabled = page === 1;
      forth.disabled = page === pages;
      one("span", pager).textContent = `page ${page.toLocaleString("en")} of ${pages.toLocaleString("en")}`;
      document.body.dataset.shown = String(count); // for whoever waits: this view is complete
      return [(page - 1) * size, Math.min(page * size, count)];
    };
    return { follow, cut };
  };
  // Arrow keys press a button or follow a link, but not while somebody writes.
  const onArrow = (targets) => document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const target = targets[event.key];
    if (target && !target.hidden && !target.disabled && !target.closest("[hidden]")) target.click();
  });
  // Rows by key(row), the unknown last; `order` with a minus: the largest first.
  const ordered = (rows, order, key) => {
    const turn = order.startsWith("-") ? -1 : 1;
    const place = (row) => { const value = key(row); return value === null || value === undefined ? Infinity : turn * value; };
    return rows.sort((a, b) => { const first = place(a), second = place(b); return first === second ? a - b : first < second ? -1 : 1; });
  };

  // On paper everything is open.
  const folded = [];
  window.addEventListener("beforeprint", () => { folded.push(...all("details:not([open])")); for (const each of folded) each.open = true; });
  window.addEventListener("afterprint", () => { for (const each of folded.splice(0)) each.open = false; });
  return { all, one, make, load, palette, stage, STAGES, index, onArrow, ordered };
})();
