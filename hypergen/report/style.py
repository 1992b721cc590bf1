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
  --soft: #f2f3f1; --accent: #0b6e75; --mark: #ffe3a3; --good: #1d7a46; --bad: #b3343f; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e6e8; --muted: #9aa3ab; --line: #32383d;
  --soft: #1d2125; --accent: #5cc4c9; --mark: #66501a; --good: #5fc98f; --bad: #f08088; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 .75rem; }
p, ul, figcaption { max-width: 70rem; }
header p { margin: .9rem 0; }
.verdict { border-left: 4px solid var(--muted); background: var(--soft); padding: .7rem 1rem; font-size: 1.05rem;
  overflow-wrap: anywhere; }
.verdict.hyperfitted { border-color: var(--good); }
.verdict.worse, .verdict.not-hyperfitted { border-color: var(--bad); }
.head { display: flex; flex-wrap: wrap; gap: .3rem 2rem; margin: 1rem 0; font-size: .92rem; }
.head dt, .head dd { display: inline; margin: 0; overflow-wrap: anywhere; }
.head dt { color: var(--muted); margin-right: .5rem; }
.command { background: var(--soft); padding: .6rem .9rem; border-radius: 6px; margin: 0; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
abbr { text-decoration: underline dotted; text-underline-offset: .2em; cursor: help; }
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
.results small { display: block; font-weight: 400; color: var(--muted); font-size: .78rem; }
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
.chart.wide { max-width: 38rem; }
.chart.wide .line { stroke-width: 1.5; opacity: .6; }
.chart.wide .label { font-size: 13px; }
.chart .mark { fill: var(--ink); stroke: var(--paper); stroke-width: 1.5; }
.chart .mark.ours { fill: var(--good); }
.chart .letter { fill: var(--paper); font-size: 12px; font-weight: 600; }
.legend { list-style: none; padding: 0; margin: .6rem 0 0; font-size: .9rem; color: var(--muted); }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px; }
.compare caption { text-align: left; padding: .6rem .8rem 0; font-size: .9rem; color: var(--muted); }
.compare td { min-width: 13rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; }
.compare td:first-child { min-width: 10rem; color: var(--muted); }
.compare .recited { outline: 2px solid var(--bad); outline-offset: -2px; }
mark { background: var(--mark); color: var(--ink); border-radius: 2px; }
.facts { font-size: .92rem; }
.facts th { font-weight: 400; color: var(--muted); padding: .3rem 1.5rem .3rem 0; white-space: nowrap; }
.facts td { padding: .3rem 0; overflow-wrap: anywhere; }
.facts th, .facts td { border: 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); }
@media (max-width: 40rem) {
  main { padding: 1.5rem .9rem 3rem; }
  .facts th { white-space: normal; }
  .results { font-size: .9rem; }
  .results th, .results td { padding: .4rem .45rem; }
  .results th:first-child { min-width: 7.2rem; max-width: 8rem; }
  .results thead th { min-width: 5.5rem; }
  .compare, .compare tbody, .compare tr, .compare td, .compare caption { display: block; }
  .compare thead { display: none; }
  .compare td, .compare td:first-child { min-width: 0; border: 0; padding: .3rem .8rem .6rem; }
  .compare tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .compare td::before { content: attr(data-title); display: block; font-size: .78rem; font-weight: 600;
    color: var(--muted); }
}
"""
