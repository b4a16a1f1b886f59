"""A profile's report from its results alone: no model, no data, seconds. `python -m ovit_core.study report PROFILE`."""

import base64
import html
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ovit_core import disk
from ovit_core.study import export, paths, per_image, plots, provenance, registry
from ovit_core.study.ablation import Fold, Results, Text

ASKED = (
    "What makes second-order pruning of Vision Transformers work: choosing the right weights, or correcting the ones that "
    "stay? And do such models still transfer?"
)
LIMITS = Text(
    """## Limits

- Sizes of effects do not carry over to other models, and their order may not.
- λ was chosen on validation, for each method and regime; where a figure says so, all forms take oViT's.
- Zeros in a dense tensor save neither time nor memory by themselves."""
)
STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --line: #ddd; --ground: #fff; --code: #f3f3f3; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h2 { margin-top: 3rem; } figure { margin: 2.5rem 0; } figcaption { color: var(--faint); max-width: 44rem; }
figcaption b { color: var(--ink); display: block; } figure.slim { display: inline-block; width: 31rem; max-width: 100%; }
figure.slim { vertical-align: top; margin: 1.5rem 0.4rem 1rem 0; } .lede { font-size: 1.15rem; }
@media (min-width: 66rem) { .first { display: grid; grid-template-columns: 1fr 31rem; gap: 2rem; align-items: start; } }
.box { overflow-x: auto; } img { display: block; max-width: 100%; height: auto; } img.wide { min-width: 44rem; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0 1rem; }
th, td { padding: 0.15rem 0.6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
code { background: var(--code); padding: 0 0.2em; } details { margin: 0.8rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --faint: #999; --line: #444; --ground: #171717; --code: #2a2d33; }
  img { background: #fff; border-radius: 0.4rem; padding: 0.5rem; box-sizing: border-box; } a { color: #8ab4f8; }
}
"""
SCREEN = 1.4  # inches of a page for an inch of paper: letters of 7 points are read as 10


class Picture(NamedTuple):
    """A figure on a page."""

    title: str
    caption: str
    alt: str  # what it shows, in words
    shown: Any  # what `picture` made of it

    def _repr_markdown_(self) -> str:
        return f"### {self.title}\n\n{self.caption}"


def load(profile: str) -> dict[str, Results]:
    """ablation -> its rows and its parameters, as the study exported them to runs/PROFILE, else as they were published.

    Raises:
        ValueError: no profile can have this name, or what was exported is damaged; names the file.
        FileNotFoundError: nothing has been exported, or not all of it; says what, and which command does it.
    """
    paths.check_profile(profile)
    if (folder := paths.exported(profile)) is None:
        found = {p.parent.name for where in (paths.runs(), paths.figures()) for p in where.glob("*/results.csv")}
        there = ", ".join(sorted(found)) or "none"
        listed = (paths.PROFILES / f"{profile}.yaml").is_file()
        made = f"a study run with `--set profile={profile}` makes them"
        first = f"run `python -m ovit_core.study {profile}` first" if listed else made
        where = f"{paths.runs(profile)} or {paths.figures(profile)}"
        raise FileNotFoundError(f"no results of profile {profile!r} in {where} (there: {there}); {first}")
    rows = export.read(folder / "results.csv")
    images = per_image.read(folder / per_image.FILE, rows)
    results = {}
    for name, ablation in registry.ablations().items():
        mine = rows[rows.experiment.isin(ablation.experiments)]
        if len(mine):
            # As they were when the rows were exported; unchecked, for rules may have changed since.
            values = export.parameters_of(folder / f"{name}.parameters.json") | dict(profile=profile)
            failures, _ = tuple(values.pop("failures", ())), values.pop("dense", ())
            config, behind = ablation.parameters.model_construct(**values), [images[line] for line in mine.index]
            results[name] = Results.of(ablation, config, mine.reset_index(drop=True), behind, failures)
    return results


def origin(results: dict[str, Results]) -> Text:
    """Where the numbers come from, as a Markdown table."""
    rows = pd.concat([r.rows for r in results.values()])
    columns = ("profile", "model", "upstream", "seed", "device", "commit", "versions")
    known = {column: provenance.distinct(rows[column]) for column in columns}
    known["rows"] = f"{len(rows)} in results.csv"
    return Text(_table(known))


def contents(results: dict[str, Results], picture: Callable[[Results, str], Any]) -> Iterator[Text | Fold | Picture]:
    """All of the report in order, with what `picture` makes of each figure of each ablation, None for none: what was asked
    and found, the first figure, the figures of each ablation, and folded away at the end what they were made from.
    """
    found = [mine.headline() for name in registry.ablations() if name in results and (mine := results[name])]
    yield Text("\n\n".join([ASKED, *filter(None, found)]))
    pictures = {name: list(_pictures(mine, picture)) for name, mine in results.items()}
    first = next((every[0] for name in registry.ablations() for every in [pictures.get(name, [])] if every), None)
    if first is not None:
        yield first
    for name, ablation in registry.ablations().items():
        yield Text(f"## {ablation.title}")
        if name not in results:
            yield Text("*Not run in this profile.*")
            continue
        mine = results[name]
        yield from (one for one in pictures[name] if one is not first)
        if said := mine.guide():
            yield Text(f"### What to take\n\n{said}")
        yield mine.comparisons()
        yield Fold("Tables", mine.tables())
        yield Fold("What was not run", mine.absent().removeprefix("Not run: "))
        yield mine.setting()
    yield LIMITS
    for mine in results.values():
        yield Fold(f"Parameters of {mine.ablation.name}", _table(mine.config.__dict__))
    yield Fold("Where the numbers come from", origin(results))


def _pictures(mine: Results, picture: Callable[[Results, str], Any]) -> Iterator[Picture]:
    """The figures of an ablation that can be drawn."""
    for name, drawing in mine.ablation.figures.items():
        drawn = mine.figure(name, save=False)
        if drawn is not None and (shown := picture(mine, name)) is not None:
            alt = f"{drawing.title}. {drawing.caption} {drawn.get_label()}".strip()
            yield Picture(drawing.title, drawing.caption, alt, shown)


def _table(values: dict[str, Any]) -> str:
    """Names and values as a Markdown table."""
    cells = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {cells(value)} |" for name, value in values.items())


def show(results: dict[str, Results]) -> None:
    """Shows the report's contents on a notebook's page."""
    from IPython.display import display

    for one in contents(results, lambda mine, name: mine.figure(name, save=False)):
        display(one, *([one.shown] if isinstance(one, Picture) else []))


def write_markdown(results: dict[str, Results], out: Path, command: str) -> Path:
    """The report as Markdown, with links to the figures where they are published."""

    def link(mine: Results, name: str) -> str | None:
        folder, file = paths.exported(mine.config.profile), f"{name}.png"
        if folder is None or not (folder / file).is_file():
            return None
        return os.path.relpath(paths.figures(mine.config.profile) / file, out.resolve().parent)

    parts = ["# Results", f"Written from the rows by `{command}`."]
    for one in contents(results, link):
        if isinstance(one, Picture):
            alt = one.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
            parts += [f"### {one.title}", f"![{alt}]({one.shown})", one.caption]
        else:
            parts.append(str(one))
    disk.write(out, "\n\n".join(filter(None, parts)) + "\n")
    return out


def write_html(results: dict[str, Results], out: Path, title: str) -> Path:
    """The report as one HTML file that needs no network: pictures inside, each with its text alternative."""
    import mistune

    render = mistune.create_markdown(escape=True, plugins=["table"])
    page = lambda text: _boxed(str(render(text)))
    parts = [f"<h1>{html.escape(title)}</h1>"]
    lede, *others = contents(results, lambda mine, name: mine.figure(name, save=False))
    first = next((one for one in others if isinstance(one, Picture)), None)
    parts.append(f"<div class=first><div class=lede>{page(lede)}</div>{_figure(first) if first else ''}</div>")
    for one in others:
        if isinstance(one, Fold):
            body = f"<summary>{html.escape(one.title)}</summary>{page(one.body)}"
            parts.append(f"<details>{body}</details>" * bool(one.body))
        elif one is not first:
            parts.append(_figure(one) if isinstance(one, Picture) else page(one))
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    head += f'<link rel="icon" href="data:,"><style>{STYLE}</style>'
    body = "\n".join(parts)
    disk.write(out, f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>{body}</body></html>\n")
    return out


def _boxed(page: str) -> str:
    """Tables in boxes that scroll by themselves."""
    return page.replace("<table>", "<div class=box><table>").replace("</table>", "</table></div>")


def _figure(one: Picture) -> str:
    """A figure as an element with its pixels inside."""
    pixels = io.BytesIO()
    with plots.style(**plots.PAPER):
        one.shown.savefig(pixels, format="png")
    width = one.shown.get_figwidth()
    kind = "wide" if width > plots.COLUMN else "slim"
    source = f"data:image/png;base64,{base64.b64encode(pixels.getvalue()).decode()}"
    alt, title, caption = map(html.escape, (one.alt, one.title, one.caption))
    image = f'<img class={kind} style="width:{SCREEN * width:.2f}in" alt="{alt}" src="{source}">'
    return f"<figure class={kind}><div class=box>{image}</div><figcaption><b>{title}</b>{caption}</figcaption></figure>"


def write_prints(results: dict[str, Results], folder: Path) -> list[Path]:
    """Every figure as PDF, as wide as it is printed: one column or two."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for mine in results.values():
        origin = "; ".join(f"{k}: {v}" for k, v in plots.provenance(mine.rows).items())
        for name in mine.ablation.figures:
            if (fig := mine.figure(name, save=False)) is not None:
                with plots.style(**plots.PAPER):
                    fig.savefig(folder / f"{name}.pdf", metadata={"Subject": origin, "CreationDate": None})
    return sorted(folder.iterdir())
