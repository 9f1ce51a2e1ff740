"""The result of a curation: a data set on disk that loads, and is published, with stock tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_mixture.data.curation.assemble import tier_folder
from hf_mixture.data.curation.record import COLUMNS
from hf_mixture.data.curation.report import FORMAT, VERSION
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_document


if TYPE_CHECKING:
    from datasets import Dataset


class CuratedDataset:
    """A finished curation.

    Args:
        folder: The output folder of `curate`.

    Attributes:
        folder (`Path`): The output folder; `dataset` in it is what is published, `rejected` the complete reject table.
        report (`dict[str, Any]`): The content of `report.json`: every document of every source accounted for.

    Raises:
        ValueError: The folder holds no finished curation.

    Example:
        >>> from hf_mixture import CuratedDataset
        >>> CuratedDataset("nowhere")
        Traceback (most recent call last):
        ValueError: 'nowhere' holds no finished curation; run or resume it first
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "dataset" / "report.json"
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} holds no finished curation; run or resume it first")
        remedy = "finish the curation again"
        self.report = read_document(path, FORMAT, VERSION, remedy=remedy)
        with reading(path, remedy):
            for key in ("configurations", "mixtures"):
                if not isinstance(self.report[key], dict):
                    raise ValueError(f"{key} must be an object")

    @property
    def configurations(self) -> tuple[str, ...]:
        """Names of the configurations: sets of tiers, and their mixed or packed forms."""
        names = tuple(self.report["configurations"])
        return names + tuple(f"{name}_training" for name in self.report["mixtures"])

    def load(self, configuration: str) -> Dataset:
        """Load a configuration.

        Args:
            configuration: One of `configurations`.

        Returns:
            The data set.

        Raises:
            ValueError: There is no such configuration.
        """
        if configuration not in self.configurations:
            raise ValueError(f"configuration={configuration!r} is not one of {list(self.configurations)}")
        return self._read("dataset/data", *self._folders(configuration))

    def rejected(self) -> Dataset:
        """Load the reject table, with the texts.

        Returns:
            The rejected documents, with all columns of the record.
        """
        return self._read("rejected", ".")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload curated data set",
    ) -> str:
        """Publish the data set with one configuration for each set of tiers, its card, report and recipe.

        The texts of rejected documents are not published; their ids and reasons are.

        Args:
            repo_id: The data set repository; it is created when it does not exist.
            private: Whether a new repository is private.
            token: Token of the Hub. Default: that of the login.
            commit_message: The message of the commit.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=self.folder / "dataset",
            commit_message=commit_message,
            # Files of an earlier curation that this one does not have.
            delete_patterns="data/**",
        )
        return str(commit.commit_url)

    def _folders(self, configuration: str) -> list[str]:
        if configuration in self.report["configurations"]:
            return [tier_folder(tier) for tier in self.report["configurations"][configuration]]
        return [configuration]

    def _read(self, place: str, *folders: str) -> Dataset:
        """The rows of some folders. `load_dataset` of the whole folder would answer from its cache after a change."""
        from datasets import Dataset

        files = [str(path) for name in folders for path in sorted((self.folder / place / name).glob("*.parquet"))]
        if not files:
            return Dataset(COLUMNS.empty_table())
        return Dataset.from_parquet(files)
