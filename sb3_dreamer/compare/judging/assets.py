"""Style and script of the report's page. They stand inside it, so that one file is all there is."""

STYLE = """\
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2430; --soft: #5a6472; --line: #d5dbe3; --card: #f6f8fa;
  --accent: #0b5cad; --good: 0, 158, 115; --bad: 213, 94, 0; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181f; --ink: #e6e9ee; --soft: #a3adba; --line: #353d49; --card: #1c222b; --accent: #7cb8f5; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.8rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 0 0 0.6rem; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
h4 { margin: 1rem 0 0.3rem; }
p { margin: 0.5rem 0; max-width: 62rem; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); padding-top: 1.4rem; margin-top: 2rem; scroll-margin-top: 3rem; }
#answer { border: 0; margin-top: 0; padding: 0.2rem 1.1rem 0.7rem; background: var(--card); border-radius: 10px; }
#answer h2 { margin-top: 0.8rem; }
#answer p:first-of-type { font-size: 1.1rem; font-weight: 600; }
.loud { background: #b3261e; color: #fff; font-weight: 600; padding: 0.7rem 1rem; border-radius: 8px; max-width: none; }
nav { position: sticky; top: 0; z-index: 2; display: flex; gap: 0.4rem 1.1rem; overflow-x: auto; padding: 0.55rem 0;
  background: var(--ground); white-space: nowrap; font-size: 0.92rem; }
a { color: var(--accent); }
.notes { border-left: 4px solid #c77700; background: var(--card); padding: 0.1rem 1rem; margin: 1rem 0;
  border-radius: 0 8px 8px 0; }
.notes h3 { margin: 0.6rem 0 0.2rem; }
.notes ul { margin: 0.3rem 0 0.7rem; padding-left: 1.2rem; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 0.88rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; margin: 1rem 0;
  align-items: start; }
figure { margin: 0; padding: 0.6rem; background: var(--card); border-radius: 10px; min-width: 0; }
figure svg, figure img { display: block; width: 100%; height: auto; max-height: 26rem; font-family: system-ui, sans-serif; }
figure img.opaque { background: #fff; border-radius: 6px; object-fit: contain; }
figcaption { font-size: 0.9rem; color: var(--soft); margin-top: 0.4rem; }
figcaption strong { color: var(--ink); }
summary { cursor: pointer; }
section > details { margin: 0.8rem 0; padding: 0.5rem 0.9rem; background: var(--card); border-radius: 8px; }
section > details > summary { font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.42rem 0.75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--ground); z-index: 1; max-width: 42vw;
  overflow: hidden; text-overflow: ellipsis; }
thead th { background: var(--card); vertical-align: bottom; padding: 0; white-space: normal; }
thead th:first-child { background: var(--card); }
thead button { all: unset; box-sizing: border-box; display: block; width: 100%; min-width: 5.5rem; padding: 0.5rem 0.75rem;
  cursor: pointer; font-weight: 600; text-align: inherit; }
thead button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
td.shaded { background: linear-gradient(rgba(var(--good), calc(max(0, var(--shade) - 0.5) * 0.9)) 0 0),
  linear-gradient(rgba(var(--bad), calc(max(0, 0.5 - var(--shade)) * 0.9)) 0 0); }
td.long { white-space: normal; min-width: 14rem; text-align: left; }
pre { overflow-x: auto; background: var(--ground); border: 1px solid var(--line); border-radius: 8px; padding: 0.7rem;
  font-size: 0.82rem; max-height: 26rem; }
footer { color: var(--soft); font-size: 0.88rem; margin-top: 2.5rem; }
@media (max-width: 40rem) {
  main { padding: 0.5rem 0.8rem 3rem; }
  h1 { font-size: 1.35rem; }
  table { font-size: 0.85rem; }
  th, td { padding: 0.38rem 0.55rem; }
  thead button { padding: 0.45rem 0.55rem; }
}
@media print { nav { position: static; } .scroll { overflow: visible; } }
"""

# Sorts by the number behind a cell, or else by its text; numbers that are unknown stay at the end.
SCRIPT = """\
document.querySelectorAll("table").forEach(function (table) {
  var headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach(function (heading, column) {
    heading.firstElementChild.addEventListener("click", function () {
      var ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      var body = table.tBodies[0];
      var rows = Array.from(body.rows);
      var numeric = rows.some(function (row) { return row.cells[column].dataset.value !== undefined; });
      rows.sort(function (one, other) {
        var a = one.cells[column], b = other.cells[column];
        if (!numeric) {
          return (ascending ? 1 : -1) * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
        }
        var known = [a.dataset.value !== undefined, b.dataset.value !== undefined];
        if (!known[0] || !known[1]) { return known[1] - known[0]; }
        var x = Number(a.dataset.value), y = Number(b.dataset.value);
        return x === y ? 0 : (ascending ? 1 : -1) * (x < y ? -1 : 1);
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
"""
