"""The style sheet of the report."""

CSS = """
:root { --ink: #1c2330; --quiet: #5c6675; --paper: #ffffff; --card: #f5f7fa; --line: #dde2ea; --warm: #d1495b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --quiet: #98a2b3; --paper: #12161d; --card: #1b212b; --line: #303846; --warm: #e0566a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px clamp(14px, 3vw, 32px) 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 12px 0 6px; }
h2 { font-size: 20px; margin: 40px 0 6px; }
h3 { font-size: 16px; margin: 26px 0 2px; }
p { margin: 4px 0 12px; max-width: 86ch; }
.quiet, figcaption { color: var(--quiet); font-size: 13px; }
code { font: 12px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.headline { display: flex; gap: 20px; align-items: center; background: var(--card); border: 1px solid var(--line);
  border-left: 5px solid var(--warm); border-radius: 8px; padding: 12px 18px; margin: 10px 0; }
.headline p { margin: 0; }
.figure { font-size: 34px; font-weight: 650; white-space: nowrap; font-variant-numeric: tabular-nums; }
.figure small { font-size: 16px; font-weight: 400; color: var(--quiet); }
.scroll { overflow-x: auto; margin: 14px 0 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; vertical-align: bottom; }
.matrix th, .matrix td { padding: 7px 14px 7px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
.matrix thead th { max-width: 180px; }
.matrix tbody th { position: sticky; left: 0; background: var(--paper); max-width: 180px; }
.matrix td { min-width: 150px; background: color-mix(in srgb, var(--warm) var(--heat, 0%), transparent); }
.matrix b { font-size: 17px; display: block; }
.matrix small { display: block; color: var(--quiet); font-size: 12px; line-height: 1.4;
  white-space: nowrap; }
.matrix td[style] small { color: inherit; opacity: .85; }
.none, .diverged { color: var(--quiet); font-style: italic; }
.plain { font-size: 13px; }
.plain th, .plain td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.plain td:nth-child(n+3) { max-width: 360px; }
details { margin: 18px 0; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; max-width: none; font-size: 13px; }
.legend i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 6px;
  vertical-align: 3px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
.confusions { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px; }
figure { margin: 0; }
.charts figcaption { color: var(--ink); font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 10px system-ui, sans-serif; fill: var(--quiet); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg polyline { stroke-width: 2; stroke-linejoin: round; }
.pixels { image-rendering: pixelated; }
.confusions img { width: 130px; height: 130px; border: 1px solid var(--line); }
.samples th { padding-right: 14px; font-size: 13px; vertical-align: middle; white-space: nowrap; }
.samples td { padding: 2px; }
.samples img { height: 84px; min-width: 84px; display: block; object-fit: contain; }
"""
