"""Hold the frame of the page, whose braces `report.page` fills in, and its style sheet, light and dark."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{security}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d2126; --muted: #626a73; --line: #dfe2e4;
  --soft: #f2f3f1; --accent: #0b6e75; --mark: #ffe3a3; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e6e8; --muted: #9aa3ab; --line: #32383d;
  --soft: #1d2125; --accent: #5cc4c9; --mark: #66501a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 .75rem; }
p, ul, figcaption { max-width: 70rem; }
ul { margin: 0 0 1rem; padding-left: 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { font-size: .85rem; color: var(--muted); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
.scroll > table { min-width: 100%; }
.scroll tbody tr:last-child > * { border-bottom: 0; }
.scroll:has(> img) { border: 0; border-radius: 0; }
.results th, .results td { padding: .45rem .65rem; }
.results td { white-space: nowrap; }
.results td, .results thead th + th { text-align: right; }
.results thead th { vertical-align: bottom; }
.results small { display: block; color: var(--muted); font-size: .78rem; }
.results th:first-child { position: sticky; left: 0; background: var(--paper); min-width: 9.5rem; max-width: 16rem;
  overflow-wrap: anywhere; }
.results .ours, .results tr.ours > :is(th, td) { background: var(--soft); }
details { margin-top: .9rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .6rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14.5rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
figcaption { color: var(--muted); font-size: .9rem; margin: .25rem 0 .6rem; }
figcaption b { color: var(--ink); font-weight: 600; margin-right: .4rem; }
.chart { display: block; width: 100%; max-width: 30rem; height: auto; }
.chart .grid { stroke: var(--line); }
.chart .label { fill: var(--muted); font-size: 11px; }
.chart .line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.chart .end { fill: var(--accent); }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px; }
.compare caption { text-align: left; padding: .6rem .8rem 0; font-size: .9rem; color: var(--muted); }
.compare td { min-width: 13rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; }
.compare td:first-child { min-width: 10rem; color: var(--muted); }
mark { background: var(--mark); color: var(--ink); border-radius: 2px; }
.facts { font-size: .92rem; }
.facts th { font-weight: 400; color: var(--muted); padding: .3rem 1.5rem .3rem 0; white-space: nowrap; }
.facts td { padding: .3rem 0; overflow-wrap: anywhere; }
.facts th, .facts td { border: 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); }
@media (max-width: 36rem) { main { padding-top: 1.5rem; } .facts th { white-space: normal; } }
"""
