"""What an installed storyzoo holds is what the checkout holds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

import storyzoo

ROOT = Path(__file__).parents[2]
FOLDERS = ("storyzoo", "models", "inference", "datasets", "reports")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_of(folder: Path) -> str:
    """``models/kernels`` -> ``storyzoo.models.kernels``."""
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "storyzoo" else ("storyzoo", *parts))


def own_folders() -> list[Path]:
    """Every folder with code of ours; links into the package are not followed."""
    found = []
    for top in FOLDERS:
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]:
            through_link = any(part.is_symlink() for part in [folder, *folder.parents])
            if folder.is_dir() and folder.name != "__pycache__" and not through_link:
                found.append(folder)
    return found


def test_every_package_is_listed() -> None:
    listed = project()["tool"]["setuptools"]["packages"]
    holding = [folder for folder in own_folders() if any(folder.glob("*.py"))]
    assert sorted(listed) == sorted(package_of(folder) for folder in holding)


def test_every_file_that_is_no_code_is_listed() -> None:
    globs = project()["tool"]["setuptools"]["package-data"]
    for folder in own_folders():
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".py":
                patterns = globs.get(package_of(folder), [])
                assert any(path.match(pattern) for pattern in patterns), path


def test_versions_agree() -> None:
    assert project()["project"]["version"] == storyzoo.__version__


def test_every_public_name_resolves() -> None:
    for name in storyzoo.__all__:
        assert getattr(storyzoo, name) is not None


def test_fit_stays_the_function() -> None:
    import storyzoo.fit  # importing the file must not hide the function
    from storyzoo.run import fit

    assert storyzoo.fit is fit
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = storyzoo.nothing
