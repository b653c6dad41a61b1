
"use strict";
// Thousands of rows are not laid out before it is known which of them are shown.
document.documentElement.classList.add("scripted");
addEventListener("DOMContentLoaded", () => {
  const make = (name, properties, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  // Details of dots and squares: under the pointer, and by the arrow keys for whoever has none.
  const follow = (picture, places, words, hint, beside = (place, step) => place + step) => {
    if (places.length === 0) return;
    const details = make("p", { className: "details", textContent: hint });
    details.setAttribute("aria-live", "polite");
    // A chart appears twice, for small screens and for large ones; its details appear once.
    const line = picture.parentElement.querySelector(":scope > .details") ?? details;
    picture.parentElement.append(line);
    let now = -1;
    const show = (place) => {
      if (now >= 0) places[now].classList.remove("here");
      now = place;
      line.classList.toggle("now", place >= 0);
      line.textContent = place < 0 ? hint : words(place);
      if (place >= 0) places[place].classList.add("here");
    };
    picture.tabIndex = 0;
    picture.addEventListener("pointerover", (event) => {
      const place = places.indexOf(event.target);
      if (place >= 0) show(place);
    });
    picture.addEventListener("pointerleave", () => show(-1));
    picture.addEventListener("blur", () => show(-1));
    picture.addEventListener("keydown", (event) => {
      const last = places.length - 1;
      if (event.key === "Escape") show(-1);
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: beside(now, 1) - now, ArrowUp: beside(now, -1) - now };
      const next = { ...steps, Home: -now, End: last - now }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(Math.min(Math.max(now + next, 0), last));
    });
  };
  for (const chart of document.querySelectorAll("svg.chart, svg.bar")) {
    const places = Array.from(chart.querySelectorAll(chart.matches(".bar") ? "rect" : "circle"));
    places.sort((a, b) => a.getAttribute("cx") - b.getAttribute("cx"));
    follow(chart, places, (place) => places[place].querySelector("title").textContent,
      "Details: point at a part of the picture, or choose it with Tab and the arrow keys.");
  }
  for (const map of document.querySelectorAll("table.heat")) {
    const squares = Array.from(map.querySelectorAll("rect"));
    const at = (square) => Number(square.getAttribute("x"));
    const rowOf = (square) => square.closest("tr").rowIndex;
    // The nearest square of the next or the former row that has any.
    const beside = (place, step) => {
      if (place < 0) return 0;
      const here = squares[place];
      const rows = squares.map(rowOf).filter((row) => (row - rowOf(here)) * step > 0);
      if (rows.length === 0) return place;
      const row = step > 0 ? Math.min(...rows) : Math.max(...rows);
      const those = squares.filter((square) => rowOf(square) === row);
      those.sort((a, b) => Math.abs(at(a) - at(here)) - Math.abs(at(b) - at(here)));
      return squares.indexOf(those[0]);
    };
    follow(map, squares, (place) => {
      const square = squares[place];
      const strip = square.closest("svg");
      const each = Number(strip.dataset.layers) / strip.viewBox.baseVal.width;
      const [first, last] = [Math.floor(at(square) * each), Math.ceil((at(square) + 1) * each) - 1];
      const share = (Number(square.getAttribute("fill-opacity")) * 100).toFixed(0);
      const name = square.closest("tr").cells[0].textContent;
      return `${name}: ${map.dataset.unit} ${first}${last > first ? ` to ${last}` : ""}: about ${share} %`;
    }, "Details: point at a square, or choose one with Tab and the arrow keys.", beside);
  }

  const table = document.getElementById("cells");
  if (table === null) return;
  const PAGE = 100;
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const every = Array.from(body.rows);
  const names = heads.map((head) => head.textContent.trim());
  const kinds = heads.map((head) => head.dataset.kind);
  const words = new Intl.Collator(undefined, { numeric: true });
  const keys = new Map();
  const texts = new Map();
  const keysOf = (column) => {
    if (!keys.has(column)) {
      const found = every.map((row) => row.cells[column].textContent.trim());
      keys.set(column, kinds[column] === "number" ? found.map((text) => parseFloat(text.replace(/[,+]/g, ""))) : found);
    }
    return keys.get(column);
  };
  const textOf = (place) => {
    if (!texts.has(place)) texts.set(place, Array.from(every[place].cells, (cell) => cell.textContent).join(" ").toLowerCase());
    return texts.get(place);
  };

  let order = every.map((_, place) => place);
  let shown = order;
  let most = PAGE;
  const draw = () => {
    const rows = shown.slice(0, most).map((place) => every[place]);
    body.replaceChildren(...rows);
    count.textContent = shown.length === every.length && rows.length === every.length
      ? `${every.length} cells` : `${rows.length} of ${shown.length} cells shown` +
        (shown.length < every.length ? `, ${every.length} in all` : "");
    more.hidden = rows.length === shown.length;
    table.classList.add("ready");
  };
  const sift = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    shown = order.filter((place) => (!meeting?.checked || every[place].classList.contains("meets")) &&
      wanted.every((word) => textOf(place).includes(word)));
    draw();
  };
  const sort = (column, descending) => {
    const found = keysOf(column);
    const sign = descending ? -1 : 1;
    const compare = kinds[column] === "number"
      // What is not known comes last, in either order.
      ? (a, b) => Number.isNaN(found[a]) || Number.isNaN(found[b])
        ? Number.isNaN(found[a]) - Number.isNaN(found[b]) : sign * (found[a] - found[b])
      : (a, b) => sign * words.compare(found[a], found[b]);
    order = every.map((_, place) => place).sort((a, b) => compare(a, b) || a - b);
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    by.value = `${column} ${descending ? "down" : "up"}`;
    sift();
  };
  // Numbers start with the largest, which is what one looks for; the running number, prices and words do not.
  const downFirst = (column) => kinds[column] === "number" && column > 0 && names[column] !== "price";

  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now === null ? downFirst(column) : now === "ascending");
    });
  });
  const by = make("select", { id: "sort" });
  names.forEach((name, column) => {
    for (const way of downFirst(column) ? ["down", "up"] : ["up", "down"]) {
      by.append(make("option", { value: `${column} ${way}` }, `${name}, ${way === "down" ? "descending" : "ascending"}`));
    }
  });
  by.addEventListener("change", () => {
    const [column, way] = by.value.split(" ");
    sort(Number(column), way === "down");
  });
  const search = make("input", { type: "search", id: "filter", placeholder: "words in a row" });
  search.addEventListener("input", sift);
  const meeting = every.some((row) => row.classList.contains("meets")) ? make("input", { type: "checkbox", id: "meeting" }) : null;
  meeting?.addEventListener("change", sift);
  const count = make("p", { id: "count" });
  count.setAttribute("role", "status");
  const more = make("button", { type: "button", className: "more" }, "Show more");
  more.addEventListener("click", () => { most *= 4; draw(); });
  const tools = make("div", { className: "tools" }, make("label", {}, "Filter", search), make("label", {}, "Sort by", by));
  if (meeting !== null) tools.append(make("label", { className: "tick-box" }, meeting, "meets the targets"));
  tools.append(count);
  table.parentElement.before(tools);
  table.parentElement.after(more);
  draw();

  // On paper is every row that the filter leaves.
  let before = most;
  addEventListener("beforeprint", () => { before = most; most = Infinity; draw(); });
  addEventListener("afterprint", () => { most = before; draw(); });
});
