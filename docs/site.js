// Two helps for readers, both without a network: a slider between two pictures, and tables that are sorted by a column.
// Without this script the pictures lie beside each other, and tables keep their order.
"use strict";

for (const compare of document.querySelectorAll(".compare")) {
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = 100;
  slider.value = 50;
  slider.setAttribute("aria-label", "From protected, at the left end, to untouched, at the right end");
  slider.addEventListener("input", () => compare.style.setProperty("--split", `${slider.value}%`));
  const place = compare.querySelector("p");
  compare.classList.add("compare--on");
  place.append(slider);
}

for (const table of document.querySelectorAll(".sortable table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...[...body.rows].sort((one, other) => order(text(one), text(other)) * (down ? -1 : 1)));
      body.append(...[...body.rows].filter((row) => !text(row))); // empty cells last, in either direction
    });
    const text = (row) => row.cells[column]?.textContent.trim() ?? "";
  });
}

// By the first number where both texts begin with one, else by the words.
function order(one, other) {
  const [first, second] = [parseFloat(one), parseFloat(other)];
  return isNaN(first) || isNaN(second) ? one.localeCompare(other) : first - second;
}
