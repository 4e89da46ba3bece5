// Filters the gallery, compares two stages, switches colours. Without it everything is still on the page.
(() => {
  "use strict";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Colours: remembered for every page of this report, where the browser allows it.
  const remember = {
    get: () => { try { return localStorage.getItem("palette"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("palette", value); } catch { /* a file opened from disk may not remember */ } },
  };
  const palette = document.getElementById("palette");
  const paint = (safe) => { document.documentElement.dataset.palette = safe ? "blue-orange" : "green-red"; };
  if (palette) {
    palette.closest("label").hidden = false;
    palette.checked = remember.get() === "blue-orange";
    paint(palette.checked);
    palette.addEventListener("change", () => {
      paint(palette.checked);
      remember.set(palette.checked ? "blue-orange" : "green-red");
    });
  }

  // Gallery.
  const form = document.querySelector(".filters-bar");
  if (form) {
    const cards = all(".eye");
    const told = form.querySelector("output");
    const none = document.querySelector(".none-match");
    const gapFits = (text, limit) => {
      if (limit === "") return true;
      if (text === "") return false;
      return Number(limit) < 0 ? Number(text) > -Number(limit) : Number(text) <= Number(limit);
    };
    const filter = () => {
      const wanted = Object.fromEntries(new FormData(form));
      const id = wanted.id.trim().toLowerCase();
      let shown = 0;
      for (const card of cards) {
        const data = card.dataset;
        const fits = data.id.toLowerCase().includes(id)
          && ["true", "predicted", "right"].every((name) => wanted[name] === "" || data[name] === wanted[name])
          && gapFits(data.gap, wanted.gap);
        card.hidden = !fits;
        shown += fits;
      }
      told.textContent = shown === cards.length ? `${shown} eyes` : `${shown} of ${cards.length} eyes`;
      none.hidden = shown > 0;
    };
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  // Eye page: any two stages side by side.
  const pick = document.querySelector(".pick");
  if (pick) {
    const correlations = JSON.parse(pick.dataset.correlations);
    const [left, right] = all("select", pick);
    const maps = all("[data-quantity]");
    const compare = () => {
      for (const map of maps) {
        const name = map.dataset.quantity;
        map.hidden = name !== left.value && name !== right.value;
        map.style.order = name === left.value ? 0 : 1;
      }
      pick.querySelector("output").textContent = `correlation ${correlations[`${left.value}|${right.value}`]}`;
    };
    pick.hidden = false;
    document.querySelector(".symmetry")?.setAttribute("hidden", "");
    document.querySelector(".maps").classList.add("two");
    pick.addEventListener("input", compare);
    compare();
  }
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (rel) document.querySelector(`a[rel=${rel}]`)?.click();
  });

  // Contents: the section in view.
  const links = all(".contents a");
  if (links.length && "IntersectionObserver" in window) {
    const seen = new Map();
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) seen.set(entry.target.id, entry.isIntersecting);
      const current = links.find((link) => seen.get(link.hash.slice(1)));
      for (const link of links) {
        if (link === current) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "-15% 0px -70% 0px" });
    for (const link of links) {
      const section = document.getElementById(link.hash.slice(1));
      if (section) watch.observe(section);
    }
  }
})();
