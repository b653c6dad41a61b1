
"use strict";
(() => {
  const table = document.getElementById("cells");
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const key = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const sort = (column, descending) => {
    const rows = Array.from(body.rows);
    rows.sort((a, b) => (descending ? -1 : 1) * order(key(a, column), key(b, column)));
    body.append(...rows);
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  const numeric = (column) => body.rows.length > 0 && "value" in body.rows[0].cells[column].dataset;
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      // Numbers start with the largest, which is what one looks for; the running number and words do not.
      const first = numeric(column) && column > 0;
      sort(column, now === null ? first : now === "ascending");
    });
  });
  document.getElementById("sort").addEventListener("change", (event) => {
    const column = Number(event.target.value);
    sort(column, numeric(column) && column > 0);
  });
})();
