"use strict";
// Tables sort by their heads: numbers by data-value, words by the letter; cells without a value stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex, wordy = !head.classList.contains("number");
    const was = head.getAttribute("aria-sort");
    const up = was ? was !== "ascending" : wordy; // numbers begin with the largest
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column], value = cell.dataset.value;
      return value !== undefined ? Number(value) : wordy ? cell.textContent : null;
    };
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true });
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
// The theme goes round: as the system, light, dark. It is remembered where the browser lets a file do so.
const themes = ["", "light", "dark"], names = ["as the system", "light", "dark"];
const toggle = document.getElementById("theme");
const show = (theme) => {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  toggle.textContent = "Theme: " + names[themes.indexOf(theme)];
};
let theme = "";
try { theme = localStorage.getItem("mmard-theme") || ""; } catch { /* a browser that keeps nothing for files */ }
if (!themes.includes(theme)) theme = "";
show(theme);
toggle.hidden = false;
toggle.addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  show(theme);
  try { localStorage.setItem("mmard-theme", theme); } catch { /* as above */ }
});
