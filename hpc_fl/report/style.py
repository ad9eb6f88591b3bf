"""Colours and type of the plots and the page."""

from typing import Any, Final

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is too pale on white.
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#9AA0A6"
INK: Final = "#1F2328"
PALE: Final = "#E3E6EA"
# Dark and light take turns, so that neighbours in a stack differ in print as well.
STACK: Final = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY)

PLOT: Final[dict[str, Any]] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "path.simplify_threshold": 0.5,
    # Text stays text: small files, and it can be searched and copied.
    "svg.fonttype": "none",
}

PAGE: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.5rem 4rem; background: #fff; color: #1f2328;
       font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; padding-top: .9rem; border-top: 1px solid #e3e6ea; }
p { margin: .3rem 0 .8rem; max-width: 48rem; }
.note { color: #57606a; }
.state { font-weight: 600; }
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .7rem;
             margin: 1.4rem 0; }
dl.numbers div { border: 1px solid #d8dde3; border-radius: 6px; padding: .6rem .9rem; }
dl.numbers dt { color: #57606a; font-size: .85rem; }
dl.numbers dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.numbers small { display: block; font-size: .8rem; font-weight: 400; color: #57606a; }
figure { margin: .6rem 0 0; overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .28rem 1.4rem .28rem 0;
         border-bottom: 1px solid #e3e6ea; overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
pre { background: #f6f8fa; border: 1px solid #e3e6ea; border-radius: 6px; padding: .8rem 1rem;
      overflow-x: auto; font: .85rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media print { body { max-width: none; padding: 0; } h2, figure { break-inside: avoid; } }
"""
