"use strict";
(() => {
  const one = (selector, inside = document) => inside.querySelector(selector);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // Colour theme: that of the system until the button is pressed.
  one("#theme").onclick = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };

  // Say which tables scroll.
  const measure = () => all(".scroll").forEach((box) => {
    const more = box.scrollWidth > box.clientWidth;
    box.classList.toggle("scrolls", more);
    box.classList.toggle("still", !more);
  });
  addEventListener("resize", measure);
  measure();

  // Sort the table by a column, numbers in descending order first; rows without a value come last.
  const body = one(".tasks tbody");
  const heads = all(".tasks thead th");
  heads.forEach((head, column) => {
    one("button", head).onclick = () => {
      const number = head.dataset.kind === "number";
      const before = head.getAttribute("aria-sort");
      const down = before === "none" ? number : before === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column]?.dataset.value ?? "";
      const rows = all("tr", body).sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = number ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows);
    };
  });

  // Filter the table and the videos.
  const [search, group, state] = ["#search", "#group", "#state"].map((id) => one(id));
  const cards = all(".card");
  const more = one("#more");
  const FEW = 12;
  let everything = cards.length <= FEW;
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (item) =>
      words.every((word) => item.dataset.task.toLowerCase().includes(word)) &&
      (!group.value || item.dataset.group === group.value);
    const rows = all("tr", body);
    const shown = rows.filter((row) => {
      row.hidden = !(fits(row) && (!state.value || row.dataset.state === state.value));
      return !row.hidden;
    });
    const total = rows.length === 1 ? "1 task" : `${rows.length} tasks`;
    one("#count").textContent = shown.length === rows.length ? total : `${shown.length} of ${total}`;
    const filtered = words.length > 0 || group.value;
    let left = everything || filtered ? Infinity : FEW;
    // Without a filter the first cards are of as many families as possible.
    const first = everything || filtered ? cards : spread();
    cards.forEach((card) => { card.hidden = true; });
    first.filter(fits).forEach((card) => { card.hidden = left-- <= 0; });
    more.hidden = everything || Boolean(filtered);
  };
  const spread = () => {
    const families = Object.values(Object.groupBy ? Object.groupBy(cards, (card) => card.dataset.group) : { all: cards });
    const turns = [];
    for (let i = 0; turns.length < cards.length; i++) families.forEach((family) => { if (family[i]) turns.push(family[i]); });
    return turns;
  };
  [search, group, state].forEach((field) => field.addEventListener("input", apply));
  more.onclick = () => { everything = true; apply(); };
  if (!cards.length) one("#videos").hidden = true;
  apply();

  // Load a video when it is played.
  const toggle = (card) => {
    const video = one("video", card);
    if (!card.classList.contains("on")) card.classList.add("on");
    if (video.paused) video.play().catch(() => card.classList.remove("on"));
    else { video.pause(); card.classList.remove("on"); }
  };
  cards.forEach((card) => { one(".play", card).onclick = () => toggle(card); });
  const player = one("#player");
  all("[data-watch]").forEach((button) => {
    button.onclick = () => {
      const card = cards.find((each) => each.dataset.task === button.dataset.watch);
      const video = one("video", player);
      video.src = one("video", card).src;
      one("p", player).textContent = one("figcaption", card).innerText.replace("\n", ": ");
      player.showModal();
      video.play().catch(() => {});
    };
  });
  player.onclose = () => one("video", player).pause();

  // Show the task and score of a bar.
  all(".bars .bar").forEach((bar) => {
    const show = () => {
      all(".bars .on").forEach((other) => other.classList.remove("on"));
      bar.classList.add("on");
      one("output", bar.closest("figure")).textContent = `${bar.dataset.task} ${bar.dataset.score}`;
    };
    bar.addEventListener("pointerenter", show);
    bar.addEventListener("click", show);
  });
})();
