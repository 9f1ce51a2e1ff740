"""What pyproject.toml cannot say: the folder `recipes/` is also the package `hf_mixture.recipes`."""

from setuptools import find_namespace_packages, setup


setup(
    packages=[
        # Folders of data, which have no __init__.py, count too.
        *find_namespace_packages(include=["hf_mixture", "hf_mixture.*"], exclude=["*.__pycache__"]),
        "hf_mixture.recipes",
    ],
    package_dir={"hf_mixture.recipes": "recipes"},
    py_modules=["hf_mixture_cli"],
)
