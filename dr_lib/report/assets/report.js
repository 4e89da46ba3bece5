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

  // On paper everything is open.
  const folded = [];
  window.addEventListener("beforeprint", () => { folded.push(...all("details:not([open])")); for (const each of folded) each.open = true; });
  window.addEventListener("afterprint", () => { for (const each of folded.splice(0)) each.open = false; });
  return { all, one, make, load, palette, stage, STAGES };
})();
