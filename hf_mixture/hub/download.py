"""One file of a repository on the Hub, and what is said where there is none."""

from __future__ import annotations

from typing import Any


def download(repo_id: str, name: str, *, repo_type: str = "model", revision: str | None = None, **options: Any) -> str:
    """Download a file and return its local path.

    Args:
        repo_id: What a user has named, which is no folder and no file here.
        name: Name of the file.
        repo_type: `"model"` or `"dataset"`. Default: `"model"`.
        revision: Branch, tag or commit. Default: the main branch.
        options: Further arguments of `hf_hub_download`, such as `token` and `cache_dir`.

    Returns:
        The path.

    Raises:
        FileNotFoundError: The repository, the revision or the file does not exist or cannot be reached.
        ValueError: `repo_id` is not a repository id.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return str(hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision, **options))
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} is neither a folder or file here nor a repository id ({error}); check the path"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"{repo_id!r}{at} is no folder or file here, and no {name} was found in a {repo_type} repository of that "
            f"name ({type(error).__name__}); check the name, the revision and the access"
        ) from error
