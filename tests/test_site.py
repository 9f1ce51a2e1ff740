"""Pages, links and names of the documentation: all lead somewhere, and each method has a page with the same parts."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from documents import code_blocks

import hf_mixture
from hf_mixture.cli.main import build_parser


ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("model_cards/**/README.md"))
)
HEADINGS = ("When to use it, and when not", "Equations", "Limits", "What is not reproduced")
METHODS = hf_mixture.list_methods()
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Folders of the repository, by which a path in a text is known as one.
_PATH = re.compile(r"(?:\.\./)*(?:benchmarks|docs|hf_mixture|model_cards|recipes|tests|training)/[\w./*-]+")
# What a run or an example makes, or what a reader has.
_MADE = ("docs/NAME.md", "model_cards/NAME", "hf_mixture/adapters/gains/", "tests/NAME")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    return _FENCE.sub("", read(name))


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that a heading gets on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def spans(name: str) -> list[str]:
    """Code within the lines of a document."""
    return [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(name))]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_anchors_lead_somewhere(name: str) -> None:
    broken = []
    for target, _, anchor in re.findall(r"\]\(([^)\s#]*)(#([^)\s]*))?\)", prose(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path = (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in map(slug, headings(path.read_text(encoding="utf-8")))):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_the_text_exist(name: str) -> None:
    named = [span for span in spans(name) if _PATH.fullmatch(span) and span not in _MADE]
    roots = [ROOT, ROOT / "hf_mixture", (ROOT / name).parent]
    assert [span for span in named if not any(list(root.glob(span.rstrip("/"))) for root in roots)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_of_the_package_exist(name: str) -> None:
    for span in spans(name):
        if re.fullmatch(r"hf_mixture(\.\w+)+", span):
            assert resolve(span) is not None, f"{name} names {span}"


def resolve(dotted: str) -> Any:
    """The module, or the member of one, of a dotted name."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part)
        return thing
    return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_named_in_the_text_exist(name: str) -> None:
    for span in spans(name):
        if span.startswith("hf-mixture "):
            assert command_exists(shlex.split(span)[1:]), f"{name} names {span!r}"


def command_exists(words: list[str]) -> bool:
    """Whether words begin with a command, and with one of its own commands where it has such."""
    parser = build_parser()
    for word in words:
        children = choices(parser)
        if not children or word.startswith("-"):
            return True
        if word not in children:
            return False
        parser = children[word]
    return True


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_method_has_a_page_with_all_parts(method: hf_mixture.MethodInfo) -> None:
    text = read(method.document)
    assert method.document.startswith("docs/")
    assert [heading for heading in HEADINGS if heading not in re.findall(r"^## (.+)$", text, re.MULTILINE)] == []
    number = re.search(r"arXiv (\d+\.\d+)", method.paper)
    assert number is None or number[0] in text
    assert any(block.language == "python" for block in code_blocks(text))
    for part in HEADINGS:
        words = re.search(rf"^## {re.escape(part)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert words is not None
        assert len(words[1].split()) > 20, f"{method.document} says next to nothing under {part!r}"


def test_the_twenty_methods_are_named_on_the_first_page() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", read("docs/index.md")))
    assert {Path(method.document).name for method in METHODS} <= linked
    assert len(METHODS) == 20


def entries(nav: Any) -> Iterator[str]:
    """The pages of a navigation of mkdocs."""
    for entry in nav:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from entries(value)


def test_the_navigation_has_every_page_once(site: ModuleType) -> None:
    found = list(entries(yaml.safe_load(read("mkdocs.yml"))["nav"]))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(site.PAGES.values()) | set(site.made_pages())
    assert sorted(found) == sorted(pages)


def test_the_reference_has_every_command_and_option(site: ModuleType) -> None:
    text = site.made_pages()["reference/command_line.md"]
    for name, parser in choices(build_parser()).items():
        assert f"## hf-mixture {name}\n" in text
        for child in choices(parser):
            assert f"### hf-mixture {name} {child}\n" in text
    assert "`--num-proc NUM_PROC`" in text
    assert "%(" not in text


def test_the_pages_of_the_rooms_name_what_exists(site: ModuleType) -> None:
    named = [name for room in site.rooms() for name in re.findall(r"^::: (\S+)$", site.api_page(room), re.MULTILINE)]
    assert {name.rpartition(".")[2] for name in named} >= set(site.EXPORTS)
    assert all(resolve(name) is not None for name in named)


def test_links_are_turned_to_files_of_the_site(site: ModuleType) -> None:
    assert site.turned("[a](../README.md#measured)", "docs/mos.md") == "[a](project/overview.md#measured)"
    assert site.turned("[a](docs/mos.md)", "README.md") == "[a](../mos.md)"
    assert (
        site.turned("[a](../benchmarks/results/ppp.json)", "docs/ppp.md") == "[a](files/benchmarks/results/ppp.json)"
    )
    assert site.turned("[a](https://arxiv.org)", "docs/ppp.md") == "[a](https://arxiv.org)"


def test_every_private_part_that_is_touched_has_a_test_named() -> None:
    rows = re.findall(r"^\| `(\w+\.py)` \|.*\| `(tests/[\w/.]+)` \|$", read("docs/upgrading.md"), re.MULTILINE)
    files = {path.name for path in (ROOT / "hf_mixture" / "_compat").glob("*.py")} - {"__init__.py"}
    assert sorted(file for file, _ in rows) == sorted(files)
    assert [test for _, test in rows if not (ROOT / test).is_file()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason='the site needs pip install ".[docs]"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "adapters.html").read_text(encoding="utf-8")
    assert "equivalent_rank" in page
