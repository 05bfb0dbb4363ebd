//! How a page looks: light and dark, narrow and wide.

/// The style sheet.
pub(super) const CSS: &str = r#":root {
  --back: #fbfbfa; --card: #ffffff; --ink: #1d2126; --soft: #5f6872; --line: #dfe2e5; --track: #eceef0;
  --good: #2f8f5b; --fair: #c98a14; --bad: #c43d33; --cost: #3a6fb5; --col: #6b7f99; --band: #3a6fb52b; --edge: #3a6fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171a; --card: #1c2024; --ink: #e6e9ec; --soft: #9aa4ae; --line: #30363c; --track: #2a2f35;
    --good: #4fb87f; --fair: #d9a441; --bad: #e2685e; --cost: #6fa0e0; --col: #8fa3bd; --band: #6fa0e038; --edge: #6fa0e0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 24px 0 8px; }
p { margin: 8px 0 12px; max-width: 75ch; color: var(--soft); }
.facts { margin: 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 4px 24px; }
.facts div { display: flex; gap: 8px; min-width: 0; }
dt { color: var(--soft); flex: none; }
dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; display: grid; }
.card span, small { color: var(--soft); font-size: 13px; }
.card strong { font-size: 22px; font-variant-numeric: tabular-nums; font-weight: 600; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; }
th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:not(:first-child):not(.bar) { text-align: right; }
td.path { overflow-wrap: anywhere; }
td.path small { display: block; }
.bar { width: 32%; min-width: 90px; }
.track { display: block; position: relative; height: 12px; background: var(--track); border-radius: 3px; overflow: hidden; }
.track span { display: block; height: 100%; border-radius: 3px; }
.track i { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: var(--ink); }
.good { background: var(--good); } .fair { background: var(--fair); } .bad { background: var(--bad); }
.cost { background: var(--cost); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px; min-width: 0; }
figcaption { font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
figcaption strong { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg.wide { max-width: 720px; }
svg text { font-size: 10px; fill: var(--soft); }
.col { fill: var(--col); } .range { fill: var(--band); }
.edge { stroke: var(--edge); stroke-width: 1.2; } .axis { stroke: var(--line); }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--cost); margin-bottom: 8px; }
@media (max-width: 640px) {
  main { padding: 16px 12px 48px; }
  th:nth-child(n+5), td:nth-child(n+5) { display: none; }
  .bar { width: 24%; min-width: 60px; }
}
"#;
