"use strict";

// --- pictures: a dialog with numbers and recipe ---

const dialog = document.querySelector("dialog");
let shown = null; // the button whose picture is in the dialog

function open(button) {
  shown = button;
  const image = button.querySelector("img");
  dialog.querySelector(".large").src = image.src;
  dialog.querySelector(".large").alt = image.alt;
  dialog.querySelector("h2").textContent = button.dataset.title;
  const numbers = dialog.querySelector(".numbers");
  numbers.replaceChildren();
  for (const [name, value] of JSON.parse(button.dataset.numbers)) {
    const term = document.createElement("dt"), figure = document.createElement("dd");
    term.textContent = name;
    figure.textContent = value;
    numbers.append(term, figure);
  }
  dialog.querySelector("pre").textContent = button.dataset.recipe;
  if (!dialog.open) dialog.showModal();
}

function neighbour(button, steps) {
  const all = [...button.closest(".run").querySelectorAll(".pictures button")];
  return all[(all.indexOf(button) + steps + all.length) % all.length];
}

document.addEventListener("click", event => {
  const picture = event.target.closest(".pictures button");
  if (picture) open(picture);
  const move = event.target.closest("[data-move]");
  if (move) open(neighbour(shown, +move.dataset.move));
  if (event.target.closest("[data-close]") || event.target === dialog) dialog.close();
  const head = event.target.closest(".sorted th");
  if (head) sort(head);
  const play = event.target.closest("[data-play]");
  if (play) run(play);
});

document.addEventListener("keydown", event => {
  const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (dialog.open) {
    if (steps) open(neighbour(shown, steps));
    return;
  }
  const picture = event.target.closest(".pictures button");
  if (picture && steps) neighbour(picture, steps).focus();
  const head = event.target.closest(".sorted th");
  if (head && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    sort(head);
  }
});

dialog.addEventListener("close", () => {
  if (shown && shown.isConnected) shown.focus();
});

// --- the chains' way ---

function frame(slider) {
  const way = slider.closest(".way"), number = +slider.value;
  way.querySelectorAll("img").forEach((image, index) => { image.hidden = index !== number; });
  way.querySelector("output").textContent = `${number + 1} of ${+slider.max + 1}`;
}

function run(button) {
  const slider = button.closest(".way").querySelector("input");
  if (button.timer) {
    clearInterval(button.timer);
    button.timer = null;
    button.textContent = "Play";
    return;
  }
  if (+slider.value === +slider.max) slider.value = 0;
  button.textContent = "Stop";
  button.timer = setInterval(() => {
    slider.value = +slider.value + 1;
    frame(slider);
    if (+slider.value === +slider.max) run(button);
  }, 120);
}

document.addEventListener("input", event => {
  if (event.target.matches(".way input")) frame(event.target);
});

// --- a table whose columns sort ---

function sort(head) {
  const column = head.cellIndex, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => { const v = row.cells[column].dataset.value; return v === "" ? NaN : +v; };
  const text = row => row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => {
    if (column === 0) return text(a).localeCompare(text(b)) * (down ? -1 : 1);
    const [x, y] = [key(a), key(b)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
    return down ? y - x : x - y;
  });
  body.append(...rows);
}

// --- live: the server says which state it has; a new one replaces the runs ---

async function refresh() {
  if (dialog.open) return;
  let state;
  try {
    state = await (await fetch("state")).text();
  } catch {
    return; // the server has ended; what is shown stays
  }
  if (state === document.body.dataset.state) return;
  const page = new DOMParser().parseFromString(await (await fetch("./")).text(), "text/html");
  const unfolded = [...document.querySelectorAll("details")].map(details => details.open);
  const focused = [...document.querySelectorAll("button, input, summary")].indexOf(document.activeElement);
  document.querySelector("main").replaceWith(document.adoptNode(page.querySelector("main")));
  document.body.dataset.state = page.body.dataset.state;
  document.querySelectorAll("details").forEach((details, i) => { details.open = unfolded[i] || false; });
  if (focused >= 0) document.querySelectorAll("button, input, summary")[focused]?.focus();
}

if (document.body.dataset.state) setInterval(refresh, 2000);
