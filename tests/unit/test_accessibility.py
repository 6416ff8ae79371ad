"""axe-core finds nothing on the pages, and all controls can be used with the keyboard; no Spark."""

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
from profilestream.serve.report import filter_data, html_page, sections
from profilestream.serve.users import user_page

from tests.unit.test_profile_renderer import SECTIONS, _view
from tests.unit.test_report_filters import filtered_view

OPEN_ALL = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
FOCUSED = """() => {
  const one = document.activeElement;
  return [one.name || one.type || one.hash, getComputedStyle(one).outlineStyle];
}"""

CUT_TABLES = """() => [...document.querySelectorAll(".scroll")]
  .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)"""
ALL_SCREENS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
# The report with a filter has all elements of the report without one.
SCREENS = {"report": ALL_SCREENS[:1], "filtered": ALL_SCREENS, "user": ALL_SCREENS}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the report, of the report with a filter, and of a user."""
    folder = tmp_path_factory.mktemp("pages")
    view = filtered_view(sources=2, segments=2, weeks=20)
    texts = (
        sections.title(view),
        sections.lead(view),
        sections.groups(view),
        get_plotlyjs(),
        filter_data.filters(view),
    )
    (folder / "report.html").write_text(html_page.page(*texts))
    (folder / "user.html").write_text(user_page.as_html(_view(SECTIONS)))
    report = f"file://{folder}/report.html"
    return {"report": report, "filtered": f"{report}#period=13&segment=1", "user": f"file://{folder}/user.html"}


@pytest.mark.parametrize("name", ["report", "filtered", "user"])
def test_axe_finds_nothing(browser: Browser, pages: dict[str, str], name: str) -> None:
    """Takes 1 s per size and color scheme: axe measures the contrast of every text."""
    # The page blocks foreign scripts, such as axe.
    page = browser.new_page(bypass_csp=True)
    page.goto(pages[name])
    page.evaluate(OPEN_ALL)
    problems = {}
    for width, scheme in SCREENS[name]:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        violations = Axe().run(page).response["violations"]
        problems[width, scheme] = [(one["id"], one["nodes"][0]["html"]) for one in violations]
    page.close()
    assert problems == dict.fromkeys(SCREENS[name], [])


def test_the_filter_can_be_used_with_the_keyboard(browser: Browser, pages: dict[str, str]) -> None:
    # The page blocks the evaluation of texts, which `wait_for_function` repeats.
    page = browser.new_page(bypass_csp=True)
    page.goto(pages["report"])
    order: list[list[str]] = []
    while len(order) < 60 and (not order or order[-1][0] != "reset"):
        page.keyboard.press("Tab")
        order.append(page.evaluate(FOCUSED))
    assert [name for name, _ in order[-4:]] == ["source", "period", "segment", "reset"]
    assert all(outline == "solid" for _, outline in order)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")
    state = page.inner_text("#filter-state")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("!document.documentElement.hasAttribute('data-filtered')")
    reset = page.inner_text("#filter-state")
    page.close()
    assert state.startswith("Shown: all sources, whole log, 0: ") and reset.endswith("all customers and guests.")


def test_a_printed_page_has_no_controls_and_no_cut_tables(browser: Browser, pages: dict[str, str]) -> None:
    # The width of A4 without margins.
    page = browser.new_page(viewport={"width": 718, "height": 900})
    page.emulate_media(media="print")
    shown = {}
    for name in ("report", "filtered", "user"):
        page.goto(pages[name])
        page.reload()
        page.evaluate(OPEN_ALL)
        controls = page.locator("#filter select, #filter button, #filter details, nav").all()
        state = page.locator("#filter-state")
        shown[name] = (
            [control for control in controls if control.is_visible()],
            page.evaluate(CUT_TABLES),
            state.count() == 1 and state.is_visible(),
        )
    page.close()
    assert shown == {"report": ([], [], False), "filtered": ([], [], True), "user": ([], [], False)}
