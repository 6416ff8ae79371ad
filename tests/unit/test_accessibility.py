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


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the report, of the report with a filter, and of a user."""
    folder = tmp_path_factory.mktemp("pages")
    view = filtered_view(sources=2, segments=2, weeks=60)
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Browser, pages: dict[str, str], width: int, scheme: str) -> None:
    """Takes 1 s per page: axe measures the contrast of every text."""
    # The page blocks foreign scripts, such as axe.
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    problems = {}
    for name, address in pages.items():
        page = context.new_page()
        page.goto(address)
        page.evaluate(OPEN_ALL)
        found = Axe().run(page, context={"exclude": [[".plot svg"]]}).response["violations"]
        problems[name] = [(one["id"], one["nodes"][0]["html"]) for one in found]
        page.close()
    context.close()
    assert problems == {"report": [], "filtered": [], "user": []}


def test_the_filter_can_be_used_with_the_keyboard(browser: Browser, pages: dict[str, str]) -> None:
    page = browser.new_page()
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
