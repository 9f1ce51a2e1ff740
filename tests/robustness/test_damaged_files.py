"""A file that anybody has changed loads, or is refused by one clear error that names it; nothing else happens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from corruption import CANARY, damages, fixed_damages
from file_format import FileFormat
from file_formats import FORMATS
from hypothesis import HealthCheck, given, settings


FAST = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FAST, max_examples=400, derandomize=False, print_blob=True)
FILES = [pytest.param(form, name, id=f"{form.name}-{name}") for form in FORMATS for name in form.files]
each_file = pytest.mark.parametrize(("form", "name"), FILES)
# Recipes of commands have one reader, which takes a second for this.
QUICK_RECIPES = ("recipe of a curation", "recipe of everything", "recipe of train")


class Artefact:
    """A sound artefact of a format, and fresh copies of it with one file replaced."""

    def __init__(self, form: FileFormat, root: Path) -> None:
        self.form, self.root = form, root
        self.sound = root / "sound"
        self.sound.mkdir()
        form.write(self.sound)
        self.expected = repr(form.read(self._copy()))

    def _copy(self) -> Path:
        place = self.root / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.sound, place / "artefact")
        return place / "artefact"

    def check(self, name: str, content: bytes) -> None:
        """Read the artefact with other content in one file."""
        folder = self._copy()
        before = {path.name for path in self.root.iterdir()}
        (folder / name).write_bytes(content)
        try:
            self.form.read(folder)
        except (ValueError, TypeError, FileNotFoundError) as error:
            self._check_message(str(error), folder, name)
        assert {path.name for path in self.root.iterdir()} == before, "something was written outside, or code was run"
        assert [path.name for path in (self.root / "place").iterdir()] == ["artefact"]

    def _check_message(self, message: str, folder: Path, name: str) -> None:
        assert Path(name).name in message or str(folder) in message, f"{message!r} names no file"
        assert "\n" not in message, message
        assert len(message) < 1500, message


_ARTEFACTS: dict[str, Artefact] = {}


@pytest.fixture
def artefact(form: FileFormat, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    if form.name not in _ARTEFACTS:
        _ARTEFACTS[form.name] = Artefact(form, tmp_path_factory.mktemp("artefact"))
    return _ARTEFACTS[form.name]


@pytest.mark.parametrize("form", FORMATS, ids=[form.name for form in FORMATS])
def test_a_sound_artefact_is_read_the_same_each_time(artefact: Artefact) -> None:
    assert repr(artefact.form.read(artefact._copy())) == artefact.expected


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(
            *file.values,
            id=file.id,
            marks=pytest.mark.slow if form.name.startswith("recipe of ") and form.name not in QUICK_RECIPES else [],
        )
        for file in FILES
        for form in file.values[:1]
    ],
)
def test_hostile_content(artefact: Artefact, name: str) -> None:
    content = (artefact.sound / name).read_bytes()
    for what, damaged in fixed_damages(content, artefact.root):
        try:
            artefact.check(name, damaged)
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert not (artefact.root / CANARY).exists(), what


def _check_drawn(artefact: Artefact, name: str, wanted: settings) -> None:
    content = (artefact.sound / name).read_bytes()

    @wanted
    @given(damaged=damages(content, name))
    def run(damaged: bytes) -> None:
        artefact.check(name, damaged)

    run()


@each_file
def test_drawn_damage(artefact: Artefact, name: str) -> None:
    _check_drawn(artefact, name, FAST)


@pytest.mark.slow
@each_file
def test_much_drawn_damage(artefact: Artefact, name: str) -> None:
    _check_drawn(artefact, name, MANY)


@pytest.mark.parametrize("form", FORMATS, ids=[form.name for form in FORMATS])
def test_a_file_that_is_missing(artefact: Artefact) -> None:
    for name in artefact.form.files:
        folder = artefact._copy()
        (folder / name).unlink()
        try:
            artefact.form.read(folder)
        except (ValueError, FileNotFoundError) as error:
            artefact._check_message(str(error), folder, name)
