"""The page from numbers: figures that plotly takes, escaped text, sections that say what is missing; no Spark."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from profilestream.serve.report import components, html_page, sections, view_model
from profilestream.serve.report.view_model import (
    Account,
    Alarm,
    Captured,
    Cohort,
    Health,
    Judged,
    Log,
    Numbers,
    Pace,
    Period,
    Rejects,
    Segment,
    Segments,
    Tag,
    Tags,
    Taste,
    Users,
    Version,
)

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
DAY = [datetime(2025, 1, day, 12, tzinfo=UTC) for day in range(1, 29)]
NOTHING = Numbers(Health((), (), (), (), (), 0), None, None, None, None, (), (), (), ())
WHOLE = Numbers(
    health=Health(
        accounts=(Account("shop", "source", 2, 1_234, 1_200, 30, 4), Account("shop", "replay", 1, 5, 5, 0, 0)),
        rejects=(Rejects("shop", "not_a_product", f"the code is {EVIL}", 30),),
        captured=tuple(Captured("shop", n, DAY[n], 600, 15, 2, 3_600.0 * n) for n in range(2)),
        paces=(Pace("capture_events", 2, 1_234, 20.0, 10.0, (12.0, 8.0)),),
        alarms=(Alarm("shop", 1, DAY[1], "volume", f"ten times {EVIL}"),),
        alarm_count=1,
    ),
    log=Log(DAY[0], DAY[27], {(0, 9): 700, (4, 17): 500}, {"view": 1_000, "purchase": 200}, 50, 9_876.5, "EUR", "UTC"),
    users=Users(
        "day",
        "week",
        tuple(Period(day.replace(tzinfo=None), n, n // 2) for n, day in enumerate(DAY)),
        (Cohort(datetime(2024, 12, 30), (100, 40, 20)), Cohort(datetime(2025, 1, 6), (80, 20))),
        {"did anything": 180, "looked": 170, "put into the cart": 60, "bought": 45},
        40,
    ),
    segments=Segments(
        now=tuple(Segment(n, 100 - n, f"group {n} {EVIL}", "weekend > 0.5", 0.8, 0.7) for n in range(9)),
        as_of=(DAY[0], DAY[1]),
        sizes={**{n: (90, 100 - n) for n in range(7)}, Segments.OTHERS: (180, 185)},
        moves=((DAY[1], "8 was split from 3"),),
    ),
    tags=Tags(DAY[27], (Tag(f"vip {EVIL}", 12, 3, 1), Tag("at_risk", 7, 0, 2)), 18),
    tastes=(Taste("categories", 150, ((EVIL, 0.5), ("a" * 40 + "1", 0.2), ("a" * 40 + "2", 0.1)), 0.2),),
    recall=tuple(Judged("factors", name, "e1", n, DAY[n], 10, 0.1) for n in range(2) for name in ("blend", EVIL)),
    cost=tuple(Judged("segments", "kmeans", "e2", n, DAY[n], 10, 2.5) for n in range(2)),
    versions=(Version("factors", 1, ("champion",), "recall_20 of blend", 0.1, DAY[1], True),),
)


class Read(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def made(found: Numbers) -> str:
    return html_page.page(
        sections.title(found), sections.lead(found), sections.tiles(found), sections.sections(found), "let Plotly;"
    )


def drawn(found: Numbers) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(Read(made(found)).scripts[1])
    return figures


def test_nothing_of_the_data_becomes_markup_or_a_script() -> None:
    read = Read(made(WHOLE))
    assert [attributes.get("type") for tag, attributes in read.tags if tag == "script"] == [
        None,
        "application/json",
        None,
    ]
    assert [tag for tag, _ in read.tags if tag in ("img", "iframe")] == []
    texts = json.dumps(drawn(WHOLE))
    # Labels are HTML to plotly; these are its own.
    assert set(re.findall(r"</?(\w+)", texts)) == {"b", "br", "extra"} and "alert(1)" in texts


def test_a_text_in_a_figure_cannot_end_its_script() -> None:
    plot = components.Plot("", "", {"data": [], "layout": {"title": EVIL}})
    read = Read(html_page.page("", "", [], [components.Section("one", "", (plot,))], ""))
    assert json.loads(read.scripts[0]) == {"one-0": plot.figure}


def test_every_figure_is_one_that_plotly_takes() -> None:
    from plotly import graph_objects  # type: ignore[import-untyped]

    text = json.dumps(drawn(WHOLE)).replace('"@heat"', '"Blues"')
    figures = json.loads(re.sub(r'"@\w+"', '"#123456"', text))
    assert len(figures) == 13
    for figure in figures.values():
        graph_objects.Figure(figure)


def test_of_one_batch_there_are_bars_and_no_line_without_length() -> None:
    assert WHOLE.segments
    sizes = {name: users[1:] for name, users in WHOLE.segments.sizes.items()}
    once = replace(WHOLE.segments, as_of=WHOLE.segments.as_of[1:], sizes=sizes)
    figures = drawn(replace(WHOLE, segments=once, cost=WHOLE.cost[:1]))
    assert [trace["type"] for trace in figures["segments-0"]["data"]] == ["bar"]
    assert figures["segments-0"]["data"][0]["x"] == [100, 99, 98, 97, 96, 95, 94, 185]
    assert figures["quality-1"]["layout"]["xaxis"]["type"] == "category"


def test_key_figures_are_there_for_people_and_for_programs() -> None:
    tiles = {of["data-name"]: of["data-value"] for tag, of in Read(made(WHOLE)).tags if "data-name" in of}
    assert tiles == {
        "rows_in": "1234", "rows_clean": "1200", "rows_rejected": "30", "rows_duplicate": "4", "alarms": "1",
        "events": "1200", "known_users": "180", "buyers": "45", "value": "9876.5", "segments": "9", "tags_held": "19",
        "recall_20": "0.1",
    }  # fmt: skip
    assert "<b>1,234</b>" in made(WHOLE) and "<b>9,876</b>" in made(WHOLE) and "<b>10.0%</b>" in made(WHOLE)


def test_a_page_of_nothing_says_of_every_section_what_would_fill_it() -> None:
    told = sections.sections(NOTHING)
    assert [one.name for one in told if not one.missing or one.parts] == []
    assert all("run" in one.missing for one in told)
    assert drawn(NOTHING) == {}
    assert "Nothing was captured yet" in made(NOTHING)


def test_a_section_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {one.name: one for one in sections.sections(replace(WHOLE, segments=None, tastes=()))}
    assert [name for name, one in told.items() if one.missing] == ["segments", "preferences"]
    assert "learn.segments.enabled = true" in told["segments"].missing


def test_names_that_are_equal_when_shortened_keep_a_bar_each() -> None:
    bars = drawn(WHOLE)["preferences-0"]
    assert bars["data"][0]["y"] == [0, 1, 2]
    labels = [label["text"].split("  ")[0] for label in bars["layout"]["annotations"]]
    assert labels[1] == labels[2] == "a" * 39 + "…"
    assert [name[-1] for name, _ in bars["data"][0]["customdata"][1:3]] == ["1", "2"]


def test_rows_that_are_missing_are_said_to_be() -> None:
    lost = replace(WHOLE.health, accounts=(Account("shop", "source", 1, 10, 7, 1, 1),))
    assert "1 rows are missing" in made(replace(WHOLE, health=lost))
    assert "Nothing is missing: rows in = clean + rejected + duplicate" in made(WHOLE)


@pytest.mark.parametrize(
    ("days", "fine", "coarse"),
    [
        (0.2, "ten minutes", "hour"),
        (3, "hour", "day"),
        (20, "day", "day"),
        (374, "week", "month"),
        (9e3, "month", "month"),
    ],
)
def test_the_longer_the_log_the_longer_the_periods(days: float, fine: str, coarse: str) -> None:
    last = datetime.fromtimestamp(DAY[0].timestamp() + days * 86_400, UTC)
    assert view_model.grains(DAY[0], last) == (fine, coarse)
