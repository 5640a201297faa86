"""Pages in a real browser: nothing loaded, nothing broken, legible by day, by night, on a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from storyzoo.reports.figures.svg import plain
from storyzoo.reports.page import compare_page, fit_page
from tests.reports.pages import HOSTILE, compared, mixture_fit, schools_fit
from tests.reports.test_figures import contrast
from tests.reports.test_lda_figures import topics_fit
from tests.reports.test_machine_figures import LearntInfo, estimated_fit
from tests.reports.test_sequence_figures import text_fit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]

DESK, PHONE = (1000, 800), (400, 800)
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)
KINDS = ("draws", "approximation", "point", "comparison", "hostile", "machine", "topics", "text")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = os.environ.get("STORYZOO_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip("needs chromium: install it, or name it in STORYZOO_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of every kind, as files."""
    home = tmp_path_factory.mktemp("pages")
    fits = [mixture_fit("point"), mixture_fit("approximation"), mixture_fit("draws")]
    hostile = schools_fit(names=[*HOSTILE, "E", "F", "G"])
    hostile.data_name = HOSTILE[0]
    for fit, name in zip(fits, ("em", "svi", "nuts"), strict=True):
        fit.folder = home / name
        fit.folder.mkdir()
        (fit.folder / "report.html").write_text(fit_page(fit), encoding="utf-8")
    text = tmp_path_factory.mktemp("text")
    written = {
        "draws": fit_page(schools_fit()),
        "approximation": fit_page(fits[1]),
        "point": fit_page(fits[0]),
        "comparison": compare_page(compared(fits, folder=home)),
        "hostile": fit_page(hostile),
        "machine": fit_page(replace(estimated_fit(0.1), info=LearntInfo())),
        "topics": fit_page(topics_fit(topics=12, words=90, labels=["a", "b", "c"] * 10)),
        "text": fit_page(text_fit(text)),
    }
    for name, page in written.items():
        (home / f"{name}.html").write_text(page, encoding="utf-8")
    return home


class Visit:
    """A page opened once; keeps what the browser complained of and asked for."""

    def __init__(self, browser: Browser, file: Path, size: tuple[int, int], scheme: Scheme) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.page.evaluate(script)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_opens_without_complaint_or_request(
    browser: Browser, folder: Path, kind: str, size: tuple[int, int], scheme: Scheme
) -> None:
    file = folder / f"{kind}.html"
    with Visit(browser, file, size, scheme) as visit:
        assert visit.complaints == []
        assert visit.requests == [file.as_uri()]
        wide, inner = visit.run("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner
        box = visit.page.locator("#verdict .word").first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < size[1]
        assert visit.page.locator("#verdict .word").first.is_visible()


CONTRAST = """selector => {
  const seen = [...document.querySelectorAll(selector)].find(e => e.getClientRects().length);
  const hex = text => {
    const canvas = document.createElement('canvas').getContext('2d');
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const data = canvas.getImageData(0, 0, 1, 1).data;
    return data[3] ? '#' + [...data.slice(0, 3)].map(c => c.toString(16).padStart(2, '0')).join('')
                   : null;
  };
  let under = seen, paper = null;
  while (under && !(paper = hex(getComputedStyle(under).backgroundColor)))
    under = under.parentElement;
  const style = getComputedStyle(seen);
  return [hex(seen.ownerSVGElement ? style.fill : style.color), paper];
}"""

TEXTS = (
    "p.headline",
    "p.facts",
    "p.note",
    ".word",
    ".card .where",
    ".mark.bad",
    ".mark.good",
    "td.number",
    "th",
    "a",
    "figcaption",
    "svg text",
    "code",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_under_it(
    browser: Browser, folder: Path, scheme: Scheme
) -> None:
    with Visit(browser, folder / "draws.html", DESK, scheme) as visit:
        papers = set()
        for selector in TEXTS:
            ink, paper = visit.page.evaluate(CONTRAST, selector)
            assert contrast(ink, paper) >= 4.5, (selector, ink, paper)
            papers.add(paper)
        light = contrast("#000000", visit.page.evaluate(CONTRAST, "p.facts")[1]) > 10
        assert light == (scheme == "light")


def test_paper_is_light_whatever_the_screen(browser: Browser, folder: Path) -> None:
    with Visit(browser, folder / "draws.html", DESK, "dark") as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        ink, paper = visit.page.evaluate(CONTRAST, "p.headline")
        assert contrast("#000000", paper) > 10
        assert contrast(ink, paper) >= 4.5
        assert not visit.page.locator("nav").is_visible()


def test_hostile_names_are_read_as_text(browser: Browser, folder: Path) -> None:
    with Visit(browser, folder / "hostile.html", DESK, "light") as visit:
        assert visit.run("document.querySelectorAll('script, img, iframe').length") == 0
        text = visit.run("document.body.textContent")
        for name in HOSTILE[:3]:
            assert f"theta[{name}]" in text
        labels = visit.run("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
        assert plain(HOSTILE[0], 22) in labels
        assert HOSTILE[2] in labels


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_phone_drawings_fit_and_their_text_can_be_read(
    browser: Browser, folder: Path, kind: str
) -> None:
    with Visit(browser, folder / f"{kind}.html", PHONE, "light") as visit:
        sizes = visit.run(
            "[...document.querySelectorAll('figure:not(.natural) .panel > svg')].map(s => "
            "[s.getBoundingClientRect().right, Math.min(...[...s.querySelectorAll('text')]"
            ".map(t => parseFloat(getComputedStyle(t).fontSize) * s.getScreenCTM().a))])"
        )
        assert sizes
        for right, smallest in sizes:
            assert right <= PHONE[0]
            assert smallest >= 6.5  # px


def test_a_wide_table_scrolls_in_its_own_box(browser: Browser, folder: Path) -> None:
    with Visit(browser, folder / "comparison.html", PHONE, "light") as visit:
        inner, outer = visit.run(
            "(b => [b.scrollWidth, b.clientWidth])(document.querySelector('#table .scroll'))"
        )
        assert inner > outer


def test_the_comparison_leads_to_each_report(browser: Browser, folder: Path) -> None:
    with Visit(browser, folder / "comparison.html", DESK, "light") as visit:
        links = visit.page.locator("#table a")
        assert links.count() == 3
        links.nth(2).click()
        assert visit.page.title().startswith("gmm on made-up")
        assert visit.page.url == (folder / "nuts" / "report.html").as_uri()
