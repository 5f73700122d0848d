
// Sorts and filters the table of groups; opens short lists before printing. The page is whole without it.
"use strict";
const table = document.getElementById("groups");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const heads = Array.from(table.tHead.rows[0].cells);
const natural = new Intl.Collator("en", { numeric: true });

function compare(column, isText, sign) {
  return (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    if (isText) return sign * natural.compare(x.title, y.title);
    const [u, v] = [x.dataset.v, y.dataset.v];
    if (u === "" || v === "") return (u === "") - (v === ""); // what has no number is last
    return sign * (u - v);
  };
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const isText = head.dataset.sort === "text" || column === 0;
    const first = isText ? "ascending" : "descending";
    const second = isText ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    rows.sort(compare(column, head.dataset.sort === "text", order === "ascending" ? 1 : -1));
    body.append(...rows);
  });
});

const search = document.createElement("input");
search.type = "search";
search.placeholder = "Filter groups and modules";
search.setAttribute("aria-label", search.placeholder);
search.addEventListener("input", () => {
  const wanted = search.value.toLowerCase();
  for (const row of rows) row.hidden = !row.cells[1].textContent.toLowerCase().includes(wanted);
});
table.parentElement.before(search);

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.few")) details.open = true;
});
