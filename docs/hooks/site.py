"""What mkdocs cannot make of the folder `docs/` alone: reference pages, pages from elsewhere, links to other files.

The pages of `docs/` link to files of the repository as they lie there, so that links also work without a site. Here
each such file becomes a file of the site, and each link is turned to it.
"""

from __future__ import annotations

import argparse
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_mixture._exports import EXPORTS
from hf_mixture.cli.main import build_parser


ROOT = Path(__file__).parents[2]
# Documents of the repository that are pages of the site: path in the repository, path in the site.
PAGES = {
    "README.md": "project/overview.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "model_cards/README.md": "project/model_cards.md",
}
CARDS = {
    str(path.relative_to(ROOT)): f"project/cards/{path.parent.name}.md"
    for path in ROOT.glob("model_cards/*/README.md")
}
# Modules without public names at the top of the package, by room.
MORE_MODULES = {"hub": ("hf_mixture.hub.cards",)}

_LINK = re.compile(r"(?<!\\)(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def command_line(parser: argparse.ArgumentParser | None = None, level: int = 1) -> str:
    """Describe a parser and all of its subcommands in Markdown, from what argparse knows.

    Args:
        parser: The parser. Default: that of `hf-mixture`.
        level: Level of the first heading.

    Returns:
        A heading, the description, the usage and a table of arguments for each command.
    """
    parser = parser or build_parser()
    formatter = parser._get_formatter()
    usage = parser.format_usage().removeprefix("usage: ").strip()
    lines = [f"{'#' * level} {parser.prog}", ""]
    lines += [parser.description, ""] if parser.description else []
    lines += ["```text", usage, "```", ""]
    children: dict[str, argparse.ArgumentParser] = {}
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            children = dict(action.choices)
        elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            says = formatter._expand_help(action) if action.help else ""
            rows.append((formatter._format_action_invocation(action), says))
    if rows:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{_cell(name)}` | {_cell(says)} |" for name, says in rows]
        lines.append("")
    if parser.epilog:
        lines += [parser.epilog, ""]
    text = "\n".join(lines)
    return text + "".join("\n" + command_line(child, min(level + 1, 4)) for child in children.values())


def api_page(room: str) -> str:
    """The page of a room: a directive for each public name, in the order of `hf_mixture._exports`."""
    names = [f"{module}.{name}" for name, module in EXPORTS.items() if module.split(".")[1] == room]
    lines = [f"# {room}", ""]
    if names:
        lines += ["All of these are names of `hf_mixture` itself: `from hf_mixture import NAME`.", ""]
    return "\n".join([*lines, *(f"::: {name}\n" for name in [*names, *MORE_MODULES.get(room, ())])])


def rooms() -> list[str]:
    """The rooms that have a page."""
    return sorted({module.split(".")[1] for module in EXPORTS.values()} | set(MORE_MODULES))


def made_pages() -> dict[str, str]:
    """The pages that are made of the code: path in the site, Markdown."""
    return {"reference/command_line.md": command_line(), **{f"api/{room}.md": api_page(room) for room in rooms()}}


def links(markdown: str) -> Iterator[str]:
    """Targets of the relative links of a document, without anchors; code is left out."""
    for match in _LINK.finditer(_FENCE.sub("", markdown)):
        if not re.match(r"[a-z]+:", match[2]):
            yield match[2]


def turned(markdown: str, source: str) -> str:
    """Turn the links of a document of the repository into links between files of the site.

    Args:
        markdown: The document.
        source: Its path in the repository.

    Returns:
        The document. A link to a folder becomes its text.
    """
    page = place_in_site(source)

    def turn(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match[2]):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if (ROOT / target).is_dir():
            readme = posixpath.join(target, "README.md")
            if not (ROOT / readme).is_file():
                return match[0]
            target = readme
        path = posixpath.relpath(place_in_site(target), posixpath.dirname(page) or ".")
        return f"]({path}{match[3] or ''})"

    return _LINK.sub(turn, markdown)


def place_in_site(path: str) -> str:
    """Where a file of the repository is in the site."""
    page = PAGES.get(path) or CARDS.get(path)
    # mkdocs leaves out what begins with a dot.
    return page or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path.lstrip('.')}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, the documents from elsewhere, and the files that any of them links to."""
    from mkdocs.structure.files import File

    for path, content in made_pages().items():
        files.append(File.generated(config, path, content=content))
    sources = {
        f"docs/{page.src_uri}": page.content_string for page in files.documentation_pages() if page.abs_src_path
    }
    elsewhere = PAGES | CARDS
    sources |= {path: (ROOT / path).read_text(encoding="utf-8") for path in elsewhere}
    for source, text in sources.items():
        if source in elsewhere:
            files.append(File.generated(config, elsewhere[source], content=text))
        for link in links(text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            place = place_in_site(target)
            if place.startswith("files/") and (ROOT / target).is_file() and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page that lies in the repository."""
    place = page.file.src_uri
    if place in made_pages():
        return markdown
    sources = {site: path for path, site in (PAGES | CARDS).items()}
    return turned(markdown, sources.get(place, f"docs/{place}"))
