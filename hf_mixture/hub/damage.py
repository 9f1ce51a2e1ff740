"""Files that anybody may have changed: what they raise while they are read becomes one line that names the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


COPY_AGAIN = "copy or download it again"
# Characters of a message; a value in a damaged file may have any length.
_LONGEST = 1000


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], remedy: str = COPY_AGAIN) -> Iterator[None]:
    """Turn what damaged content raises into one ValueError of one line that names the file.

    Inside the block a file is read and its content is taken apart. A mistake in the content may raise anything there:
    a missing key, a text where a number should be, a header that is cut off. A ValueError that names the file already
    passes, and so do missing files and files that may not be read.

    Args:
        path: The file, for the message.
        remedy: What the user can do, for the message.

    Raises:
        ValueError: The content could not be read.

    Example:
        >>> from hf_mixture.hub.damage import reading
        >>> with reading("state.json"):
        ...     {}["step"]
        Traceback (most recent call last):
        ValueError: state.json is incomplete ('step' is missing); copy or download it again
    """
    where = os.fspath(path)
    try:
        yield
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:
        # Those of libraries, such as pyarrow's, are subclasses, and name no remedy.
        if type(error) is ValueError and where in str(error):
            raise _cut(error) from error.__cause__
        raise _damage(where, error, remedy) from error


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], remedy: str = "correct it") -> Iterator[None]:
    """As `reading`, for a file that a person has written and rules of the package are checked on.

    What the rules say stands after the name of the file; anything else is damage. An OSError, of a library that loads
    what it names, passes.

    Args:
        path: The file, for the message.
        remedy: What the user can do about damage, for the message.

    Raises:
        ValueError: A rule is broken, or the content could not be read.

    Example:
        >>> from hf_mixture.hub.damage import naming
        >>> with naming("recipe.yaml"):
        ...     raise ValueError("r=0 must be positive")
        Traceback (most recent call last):
        ValueError: recipe.yaml: r=0 must be positive
    """
    where = os.fspath(path)
    try:
        yield
    except (OSError, ImportError):
        raise
    except (ValueError, TypeError) as error:
        if isinstance(error, ValueError) and where in str(error):
            raise _cut(error) from error.__cause__
        raise ValueError(f"{where}: {error_text(error)}") from error
    except Exception as error:
        raise _damage(where, error, remedy) from error


@contextlib.contextmanager
def loading(model: str | os.PathLike[str]) -> Iterator[None]:
    """Name a model in the errors of its `from_pretrained`.

    Args:
        model: Folder, or name of a repository on the Hub.

    Raises:
        FileNotFoundError: It cannot be found, or the Hub cannot be reached.
        ValueError: What was found cannot be read, or breaks a rule.

    Example:
        >>> from hf_mixture.hub.damage import loading
        >>> with loading("me/model"):
        ...     raise OSError("we could not connect")
        Traceback (most recent call last):
        FileNotFoundError: 'me/model' cannot be loaded: we could not connect
    """
    name = os.fspath(model)
    try:
        with naming(name):
            yield
    except OSError as error:
        # What looks like a path cannot be a name on the Hub, which is what transformers would say of it.
        missing = name.startswith((".", "/", "~")) and not os.path.exists(name)
        said = "there is no such folder" if missing else str(error).splitlines()[0]
        raise FileNotFoundError(f"{name!r} cannot be loaded: {said}") from error


def _damage(where: str, error: Exception, remedy: str) -> ValueError:
    state = "incomplete" if isinstance(error, KeyError) else "truncated or damaged"
    return ValueError(f"{where} is {state} ({error_text(error, 300)}); {remedy}")


def error_text(error: Exception, length: int = 1000) -> str:
    """The message of an error on one line, cut to `length` characters.

    Args:
        error: The error.
        length: Most characters.

    Example:
        >>> from hf_mixture.hub.damage import error_text
        >>> error_text(KeyError("step")), error_text(ValueError("r=0\\nis wrong"))
        ("'step' is missing", 'r=0 is wrong')
    """
    if isinstance(error, KeyError) and error.args:
        return f"{shorten(repr(error.args[0]), length)} is missing"
    return shorten(" ".join(str(error).split()), length) or type(error).__name__


def shorten(text: str, length: int) -> str:
    """Cut a text for a message."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def shorten_middle(text: str, length: int) -> str:
    """Cut a text for a message, and keep its end."""
    return text if len(text) <= length else f"{text[: length - length // 3]}...{text[3 - length // 3 :]}"


def _cut(error: ValueError) -> ValueError:
    """The error, or one without the middle: what is wrong stands first in a message, and what to do last."""
    text = str(error)
    return error if len(text) <= _LONGEST else ValueError(shorten_middle(text, _LONGEST))
