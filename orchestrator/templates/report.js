"use strict";
document.documentElement.classList.add("js");
const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
const one = (selector, root) => (root || document).querySelector(selector);

const pair = one(".pair");
if (pair) {
  const range = one("input", pair);
  const move = () => pair.style.setProperty("--cut", range.value + "%");
  range.addEventListener("input", move);
  move();
}

const cards = all(".card[data-image]");
const show = (card) => {
  if (!pair || !card) return;
  one(".after", pair).src = card.dataset.image;
  one(".after", pair).alt = "Candidate " + card.dataset.id;
  one(".tag.right", pair).textContent = card.dataset.id;
  const label = one("#shown");
  if (label) label.textContent = card.dataset.id + (card.dataset.potential ? " · " + card.dataset.potential : "");
  all(".card.is-shown").forEach((other) => other.classList.remove("is-shown"));
  card.classList.add("is-shown");
};
const visible = () => all(".card[data-image]").filter((card) => !card.hidden);
const step = (by) => {
  const list = visible();
  const at = list.findIndex((card) => card.classList.contains("is-shown"));
  show(list[(Math.max(at, 0) + by + list.length) % list.length]);
};
cards.forEach((card) => {
  const button = one("button.compare", card);
  if (button) button.addEventListener("click", () => {
    show(card);
    one("#viewer").scrollIntoView({ block: "start" });
  });
});
all("button.step").forEach((button) => button.addEventListener("click", () => step(Number(button.dataset.by))));
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowRight") step(1);
  if (event.key === "ArrowLeft") step(-1);
});
all("button.copy").forEach((button) => button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(button.dataset.text);
  const before = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}));

const grid = one(".grid");
const sort = one("#sort");
if (sort) sort.addEventListener("change", () => {
  const key = sort.value;
  const ascending = key === "rank" || key === "order" || key === "seed";
  const value = (card) => {
    const text = card.dataset[key];
    return text === undefined || text === "" ? (ascending ? Infinity : -Infinity) : Number(text);
  };
  const sorted = all(".card", grid).sort((a, b) =>
    (ascending ? value(a) - value(b) : value(b) - value(a)) || a.dataset.order - b.dataset.order);
  grid.append(...sorted);
});
const filter = one("#filter");
if (filter) filter.addEventListener("change", () => {
  all(".card", grid).forEach((card) => { card.hidden = filter.value !== "" && card.dataset.kind !== filter.value; });
});

const find = one("#find");
const state = one("#state");
const narrow = () => all("tbody tr[data-text]").forEach((row) => {
  row.hidden = !(row.dataset.text.includes(find.value.trim().toLowerCase()) && (!state.value || row.dataset.state === state.value));
});
if (find) { find.addEventListener("input", narrow); state.addEventListener("change", narrow); }
