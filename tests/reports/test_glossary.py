"""Every word that a reader meets is explained, at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from storyzoo.errors import SettingError
from storyzoo.reports.check import KINDS
from storyzoo.reports.glossary import ENTRIES, explain, find


@pytest.mark.parametrize("name", [*KINDS, *ENTRIES])
def test_every_check_and_entry_is_explained(name: str) -> None:
    entry = find(name)
    text = explain(name)
    assert text.startswith(entry.title)
    assert "Source: " in text and "    " in text
    assert max(map(len, text.splitlines())) <= 90
    assert len(entry.text) > 80 and entry.formula and entry.source


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [
        ("R-hat", "r_hat"),
        ("rhat", "r_hat"),
        ("ESS", "ess_bulk"),
        ("bits per dim", "bits_per_dim"),
        ("degenerate component", "degenerate"),
        ("label switching", "label_switching"),
        ("point estimate", "point_estimate"),
        ("held-out log-likelihood", "heldout_log_likelihood"),
        ("Wasserstein", "sliced_wasserstein"),
        ("too short", "verdict"),
    ],
)
def test_spellings(spelt: str, meant: str) -> None:
    assert find(spelt) is ENTRIES[meant]


def test_no_two_words_clash() -> None:
    aliases = [alias for entry in ENTRIES.values() for alias in entry.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(ENTRIES)


def test_unknown_words_are_met_with_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'divergences'"):
        explain("divergencies")
    with pytest.raises(SettingError, match="known: r_hat"):
        explain("")


def test_explaining_imports_nothing_heavy() -> None:
    code = (
        "import sys; from storyzoo.reports.glossary import explain; explain('r_hat'); "
        "print([m for m in ('numpy', 'torch', 'xarray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
