"""The data of an unlearning run: interactions in three parts, and modality vectors of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_arrays
from hf_mixture.training.movielens import movielens_folder, read_table
from hf_mixture.training.unlearn.recipe import UnlearnRecipe


# A film that someone liked; others were rated, and are no interactions.
LEAST_RATING = 4.0


def load_data(recipe: UnlearnRecipe) -> Any:
    """Read or make the data of a recipe.

    Args:
        recipe: The recipe.

    Returns:
        A `RecommendationData`.

    Raises:
        ValueError: If a file is missing or not the expected one.
    """
    from hf_mixture.models.mm_recommender.synthetic import synthetic_interactions

    if recipe.data.name == "movielens":
        return load_movielens(recipe.data_seed)
    if recipe.data.name == "npz":
        return load_npz(Path(str(recipe.data.path)))
    return synthetic_interactions(
        num_users=recipe.data.num_users, num_items=recipe.data.num_items, seed=recipe.data_seed
    )


def load_movielens(seed: int = 0) -> Any:
    """MovieLens-100K: films with at least 4 stars are interactions, genres are a modality.

    Args:
        seed: Seed of the split: 80 % of a user's interactions for training, 10 % each for validation and test.

    Returns:
        A `RecommendationData` with the modality `genres`.
    """
    import torch

    from hf_mixture.models.mm_recommender.synthetic import RecommendationData

    folder = movielens_folder()
    ratings = read_table(folder / "ml-100k.inter")
    films = read_table(folder / "ml-100k.item")
    ids = sorted({int(film) for film in [*ratings["item_id"], *films["item_id"]]})
    place = {film: number for number, film in enumerate(ids)}
    people = {user: number for number, user in enumerate(sorted({int(user) for user in ratings["user_id"]}))}
    liked = np.asarray([float(rating) >= LEAST_RATING for rating in ratings["rating"]])
    users = np.asarray([people[int(user)] for user in ratings["user_id"]])[liked]
    items = np.asarray([place[int(film)] for film in ratings["item_id"]])[liked]
    genres = sorted({genre for names in films["class"] for genre in names.split()})
    vectors = torch.zeros(len(ids), len(genres))
    for film, names in zip(films["item_id"], films["class"], strict=True):
        for genre in names.split():
            vectors[place[int(film)], genres.index(genre)] = 1.0
    parts = split_by_user(users, items, len(people), len(ids), seed)
    return RecommendationData(train=parts[0], validation=parts[1], test=parts[2], features={"genres": vectors})


def split_by_user(users: Any, items: Any, num_users: int, num_items: int, seed: int) -> list[Any]:
    """Part the interactions of each user at random: 80, 10 and 10 of 100.

    Args:
        users: User of each interaction.
        items: Its item.
        num_users: Number of users.
        num_items: Number of items.
        seed: Seed.

    Returns:
        Interactions for training, validation and test; all of a user with fewer than 10 are for training.
    """
    from hf_mixture.models.mm_recommender.interactions import Interactions

    order = np.random.default_rng(seed).permutation(len(users))
    users, items = users[order], items[order]
    counts = np.bincount(users, minlength=num_users)
    by_user = np.argsort(users, kind="stable")
    rank = np.empty(len(users), dtype=np.int64)
    rank[by_user] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = counts[users] // 10
    part = np.where(rank < held, 2, np.where(rank < 2 * held, 1, 0))
    sizes = {"num_users": num_users, "num_items": num_items}
    return [Interactions.of(users[part == number], items[part == number], **sizes) for number in range(3)]


def load_npz(path: Path) -> Any:
    """Read a file with `{train,valid,test}_{user,item}`, `shape` (users, items) and `NAME_features` of each modality.

    Args:
        path: The file.

    Returns:
        A `RecommendationData`.

    Raises:
        ValueError: If the file is missing, or an array is.
    """
    import torch

    from hf_mixture.models.mm_recommender.interactions import Interactions
    from hf_mixture.models.mm_recommender.synthetic import RecommendationData

    if not path.is_file():
        raise ValueError(
            f"data.path={str(path)!r} is not a file; give the .npz file of interactions and modality vectors with "
            "--data.path (docs/mmrecun.md says what it holds)"
        )
    suffix = "_features"
    arrays = read_arrays(path)
    with reading(path, "correct it"):
        names = [f"{part}_{column}" for part in ("train", "valid", "test") for column in ("user", "item")]
        missing = [name for name in (*names, "shape") if name not in arrays]
        features = {name.removesuffix(suffix): arrays[name] for name in arrays if name.endswith(suffix)}
        if missing or not features:
            raise ValueError(f"{path} lacks the arrays {missing or ['NAME' + suffix]}; add them")
        num_users, num_items = (int(size) for size in arrays["shape"])
        parts = [
            Interactions.of(arrays[f"{part}_user"], arrays[f"{part}_item"], num_users=num_users, num_items=num_items)
            for part in ("train", "valid", "test")
        ]
    return RecommendationData(
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        features={name: torch.from_numpy(vectors.astype(np.float32)) for name, vectors in features.items()},
    )


def draw_request(data: Any, kind: str, share: float, seed: int) -> Any:
    """Draw what is asked for among what training has.

    Args:
        data: The data.
        kind: `"users"`, `"items"` or `"interactions"`.
        share: Share of them.
        seed: Seed.

    Returns:
        An `UnlearningRequest`.
    """
    from hf_mixture.models.mm_recommender.requests import UnlearningRequest

    train, generator = data.train, np.random.default_rng([seed, 1])
    if kind == "interactions":
        chosen = np.sort(generator.choice(len(train), max(1, round(share * len(train))), replace=False))
        pairs = zip(train.users[chosen].tolist(), train.items[chosen].tolist(), strict=True)
        return UnlearningRequest(interactions=list(pairs))
    there = np.unique(train.users if kind == "users" else train.items)
    chosen = np.sort(generator.choice(there, max(1, round(share * len(there))), replace=False)).tolist()
    return UnlearningRequest(users=chosen) if kind == "users" else UnlearningRequest(items=chosen)
