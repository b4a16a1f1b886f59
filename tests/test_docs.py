"""README and docs keep their promises: links, commands, tables from the code, and no more words than a reader has time for."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ovit_core.methods import METHODS, method_table
from ovit_core.study import __main__ as command
from ovit_core.study import grid, profiles, publish, registry, report, take
from ovit_core.study.paths import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[Path, str]]:
    """Every fenced block of a language, with its page."""
    return [(p, b) for p in PAGES for b in re.findall(rf"```{language}\n(.*?)```", p.read_text(), re.S)]


def commands() -> list[tuple[Path, str]]:
    """Every command shown at a prompt."""
    return [
        (p, line[2:].partition("  # ")[0]) for p, b in blocks("console") for line in b.splitlines() if line[:2] == "$ "
    ]


def test_the_readme_takes_three_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    anchors = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        assert not path or (page.parent / path).exists(), target
        if not path and anchor:
            assert anchor in anchors, target


def test_tables_of_methods_are_the_code():
    text = (ROOT / "docs" / "pruner.md").read_text()
    assert re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", text, re.S).group(1) == method_table()
    assert all(f"`{name}`" in text for name in METHODS)


@pytest.mark.parametrize("page, line", commands(), ids=lambda v: v if isinstance(v, str) else v.name)
def test_commands_shown_are_commands_there_are(page, line, monkeypatch):
    """Each is taken as far as its own checks; the tests of the study run them for real."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]  # variables before a command
    makefile = (ROOT / "Makefile").read_text()
    if words[0] == "make":
        targets = [w for w in words[1:] if "=" not in w]
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), line
    elif words[:3] == [".venv/bin/python", "-m", "ovit_core.study"]:
        words, done = words[: words.index(">")] if ">" in words else words, []
        monkeypatch.setattr(publish, "publish", lambda *_: publish.Published({}, []))
        monkeypatch.setattr(take, "take", lambda _: 0)
        monkeypatch.delenv("OVIT_STUDY_DIR", raising=False)  # nothing is written
        monkeypatch.setattr(grid, "measure", lambda asked: [])
        monkeypatch.setattr(profiles, "execute", lambda notebook, parameters: done.append(notebook) or notebook)
        monkeypatch.setattr(report, "write_html", lambda results, out, *_: done.append(out) or out)
        monkeypatch.setattr(report, "write_prints", lambda *_: [])
        wrong = "error: " in _output(page, line)
        assert command.main(words[3:]) == 2 * wrong and (
            bool(done) != wrong or words[3] in ("plan", "publish", "take", "parameters")
        ), line
    elif words[:3] == [".venv/bin/python", "-m", "ovit_core.benchmark"]:
        from ovit_core.benchmark import __main__ as benchmark

        with pytest.raises(SystemExit, match="0"):
            benchmark.main([*words[3:], "--help"])
    elif words[0] == ".venv/bin/papermill":
        notebook = next(w for w in words[1:] if w.endswith(".ipynb"))
        assert (ROOT / notebook).is_file(), line
    elif words[:4] == [".venv/bin/python", "-m", "pip", "install"]:
        (extra,) = re.findall(r"\.\[(\w+)\]", line)
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M), line
    else:
        assert words[0] in ("docker", ".venv/bin/pre-commit"), line


def _output(page: Path, line: str) -> str:
    """What is shown below a command, up to the next one."""
    rest = page.read_text().partition(f"$ {line}")[2]
    return re.split(r"\n\$ |```", rest)[0]


def test_errors_shown_are_the_errors(capsys):
    text = (ROOT / "docs" / "running.md").read_text()
    shown = re.findall(r"\$ \.venv/bin/python -m ovit_core\.study (.+)\n(error: .+)", text)
    assert len(shown) >= 3
    for words, error in shown:
        assert command.main(shlex.split(words)) == 2
        assert capsys.readouterr().err.replace(f"{ROOT}/", "").strip() == error


def test_python_blocks_are_python():
    assert len(blocks("python")) >= 3
    for page, block in blocks("python"):
        compile(block, page.name, "exec")


def test_profiles_named_in_the_docs_are_those_there_are():
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "running.md").read_text().partition("## Profiles")[2], re.M)
    assert set(named) >= {p.stem for p in (ROOT / "notebooks" / "profiles").glob("*.yaml")}
    assert set(registry.ablations()) <= {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert profiles.read_profile("quick", [])["profile"] == "quick"


def test_every_line_of_the_faults_has_its_test():
    rows = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")]
    named = [re.search(r"`(test_\w+)` \|$", line) for line in rows if not line.startswith("| what ")]
    there = "\n".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 20 and all(named)
    assert [m[1] for m in named if f"def {m[1]}(" not in there] == []


def test_citation_and_package_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for key in ("version", "license"):
        assert f'\n{key} = "{citation[key]}"\n' in PROJECT
    authors = [a["family-names"] for a in citation["references"][0]["authors"]]
    assert authors == ["Kuznedelev", "Kurtić", "Frantar", "Alistarh"]


def test_constraints_hold_what_is_asked_for():
    names = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    asked = re.findall(r'^    "([\w-]+)>=', PROJECT.partition("\ndependencies = [")[2].partition("\n]")[0], re.M)
    assert len(asked) > 10
    assert {a.lower() for a in asked} <= {n.lower() for n in names}
    assert "http" not in (ROOT / "constraints.txt").read_text()
