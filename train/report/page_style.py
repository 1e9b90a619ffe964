"""The style sheet of a report: one column on a phone, several where there is room."""

__all__ = ["POLICY", "STYLE"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may load: nothing, and no script, whatever a run's name holds."""

STYLE = """
:root { color-scheme: light; --ink: #1d2330; --soft: #5b6474; --line: #d8dce2; --back: #f5f6f8; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1240px; padding: 20px 16px 60px; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 40px 0 4px; padding-top: 10px; border-top: 1px solid var(--line); }
h4 { margin: 16px 0 4px; font-size: .9rem; }
p { margin: 4px 0 12px; max-width: 46rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 10px 0 18px; }
a { color: #0b5cad; }
.soft, .note { color: var(--soft); }
.note { font-size: .8rem; margin: 2px 0 0; }
.charts { display: grid; gap: 18px 22px; margin-top: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: 2px; }
svg { display: block; width: 100%; height: auto; max-width: 560px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.wide { overflow-x: auto; margin: 8px 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .86rem; width: 100%;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 6px 9px; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
thead th { white-space: normal; min-width: 3.6rem; vertical-align: bottom; color: var(--soft);
  font-weight: 500; }
thead th:first-child { min-width: 0; }
tbody th { text-align: left; position: sticky; left: 0; background: #fff; max-width: 46vw;
  white-space: normal; overflow-wrap: anywhere; min-width: min(11rem, 38vw); }
details .wide td { text-align: left; }
details { border: 1px solid var(--line); border-radius: 6px; margin: 8px 0; padding: 8px 12px; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--back); padding: 10px; border-radius: 6px; overflow-x: auto;
  font-size: .8rem; }
code { font-size: .85em; }
@media print { details { break-inside: avoid; } .wide { overflow: visible; } }
"""
