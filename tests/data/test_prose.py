from __future__ import annotations

from hf_mixture.data import prose


def test_copies_and_near_copies_are_seen() -> None:
    lines = [f"line {i} is long enough to be counted" for i in range(10)]
    seen = prose.Seen()
    assert seen.is_new("\n".join(lines))
    assert not seen.is_new("\n".join(lines))
    assert not seen.is_new("\n\n".join(f"   {line}" for line in lines))
    assert not seen.is_new("\n".join([*lines[:6], *(f"another line, also long enough: {i}" for i in range(5))]))
    assert seen.is_new("\n".join([*lines[:5], *(f"another line, also long enough: {i}" for i in range(5))]))
    assert seen.is_new("short")
    assert not seen.is_new(" short\n")


def test_docstrings_are_taken_from_the_parsed_file_in_order() -> None:
    words = " ".join(["words"] * 30)
    source = f'''"""Module {words}."""
import not_there
raise SystemExit

class A:
    """Class {words}.

        Indented.
    """

    def method(self):
        """Short."""

    async def other(self):
        """Method {words}."""


def function():
    """Function {words}."""
    x = """{words} not documentation"""
'''
    text = prose.docstrings(source)
    assert text is not None
    starts = [part.split()[0] for part in text.split("\n\n")]
    assert starts == ["Module", "Class", "Indented.", "Method", "Function"]
    assert "\nIndented" in text
    assert "not documentation" not in text


def test_files_with_little_documentation_or_errors_have_none() -> None:
    assert prose.docstrings("x = 1\n" * 100) is None
    assert prose.docstrings('"""' + "words " * 100 + '"""\nprint "python 2"') is None
    assert prose.docstrings('"""' + "words " * 100 + '"""\n\0') is None


def test_description_is_the_body_of_the_metadata() -> None:
    assert prose.description("Metadata-Version: 2.1\nName: x\n\n# Title\n\nBody.\n") == "# Title\n\nBody."
    assert prose.description("Metadata-Version: 2.0\nName: x\nDescription: Old style.\n") == "Old style."


def test_tables_and_lists_of_names_are_not_prose() -> None:
    assert prose.is_prose("This is a sentence about something, and here is another.\n")
    assert not prose.is_prose("0.123 0.456 0.789\n" * 10)
    assert not prose.is_prose("alpha\nbeta\ngamma\n" * 10)
