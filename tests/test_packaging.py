"""One list of dependencies: environment.yml repeats pyproject.toml."""

import re

import yaml

from ovit_core.study.paths import ROOT


def test_environment_agrees_with_pyproject():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'^    "(.+)",$', text.partition("\ndependencies = [")[2].partition("\n]")[0], re.M)
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert [p for p in pip if not p.startswith("--")] == listed and len(listed) > 10
    assert f"python{re.search(r'requires-python = .(.+).$', text, re.M).group(1)}" in environment["dependencies"]


def test_dependencies_admit_newer_releases():
    assert not re.search(r'"(torch|torchvision|timm)[^"]*(==|<)', (ROOT / "pyproject.toml").read_text())
