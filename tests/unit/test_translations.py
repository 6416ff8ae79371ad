"""The catalogs of the pages are complete, and pages in Chinese contain no other words of their own; no Spark."""

import dataclasses
import html
import json
import re
import string
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import messages
import pytest
from babel.messages.catalog import Message
from playwright.sync_api import Browser
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
from profilestream.base import job, language
from profilestream.base.errors import BadSettings
from profilestream.base.language import LANGUAGES, Language, translate, translate_count, use_language
from profilestream.derive import table_declaration
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.learners import LEARNERS
from profilestream.learn.segments import rule_words
from profilestream.serve import reason_texts
from profilestream.serve.plain_tables.item_names import label_items
from profilestream.serve.report import chart_elements, filter_data, html_page, sections
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_shop import SoldItem
from profilestream.serve.scores import basket_lists
from profilestream.serve.scores.kernels import unusual_days
from profilestream.serve.text_width import pad, shorten, width
from profilestream.serve.users import user_changes, user_page

from tests.unit import test_profile_renderer
from tests.unit.test_report import EMPTY, FULL
from tests.unit.test_report_filters import filtered_view

ROOT = Path(__file__).parent.parent.parent
CATALOGS = [name for name in LANGUAGES if name != language.ENGLISH]
HAN = "\u4e00-\u9fff"
CHINESE, ARABIC, EMOJI = (
    "青花瓷茶杯手工彩绘景德镇陶瓷功夫茶具套装礼盒",
    "كوب شاي زجاجي مقاوم للحرارة مع ملعقة",
    "🎁👨‍👩‍👧‍👦" * 20,
)
# What a page in Chinese may contain in Latin letters: commands and settings; names, units and measures.
COMMANDS = re.compile(
    r"jobs/\w+\.py( --rebuild)?|\b(serve|learn|derive|capture|stream)\.\w+(\.\w+)?( = (true|\"\w+\"))?"
)
NAMES = re.compile(
    r"\b(preference\.categories|brands|items|purchase|user_id|events|mean|profilestream)\b"
    r"|\b(UTC|ID|AUC|ECE|MAE|MB|RFM|[RFM]|n|k)\b"
)


def messages_of(name: str) -> Iterator[tuple[Message, list[tuple[str, str]]]]:
    """Each message of a catalog with its pairs of English text and translation."""
    for one in messages.read(name):
        if one.id:
            sources, forms = ([text] if isinstance(text, str) else list(text or ()) for text in (one.id, one.string))
            # A language with one form translates the plural; that of more languages translates each.
            yield one, list(zip(sources[-len(forms) :], forms, strict=False))


@pytest.mark.parametrize("name", CATALOGS)
def test_a_catalog_has_all_messages_of_the_code_and_no_others(name: str) -> None:
    catalog, path = messages.updated(name), messages.FOLDER / f"{name}.po"
    assert path.read_bytes() == messages.po_text(catalog), "run: make messages"
    assert path.with_suffix(".mo").read_bytes() == messages.mo_bytes(catalog), "run: make messages"
    assert {path.stem for path in messages.FOLDER.glob("*.po")} == {*CATALOGS}


@pytest.mark.parametrize("name", CATALOGS)
def test_every_message_is_translated_with_the_same_placeholders(name: str) -> None:
    def placeholders(text: str) -> list[tuple[str, str]]:
        return sorted((field, form or "") for _, field, form, _ in string.Formatter().parse(text) if field)

    wrong = [
        source
        for _, pairs in messages_of(name)
        for source, translation in pairs
        if not translation or set(placeholders(source)) != set(placeholders(translation))
    ]
    assert wrong == []
    assert not any(one.fuzzy for one, _ in messages_of(name))


def test_chinese_has_full_width_punctuation_and_no_spaces_between_words() -> None:
    texts = [translation for _, pairs in messages_of("zh") for _, translation in pairs]
    marks = "。，；：！？、（）“”"
    half_width = re.compile(rf"[{HAN}}}] ?[,;!?()]|[,;!?()] ?[{HAN}{{]|[{HAN}]:|[{HAN}}}]\.( |$)")
    spaces = re.compile(rf"[{HAN}] +[{HAN}{marks}]|[{marks}] | [{marks}]")
    no_space_before_latin = re.compile(rf"[{HAN}][A-Za-z0-9]|[A-Za-z0-9%][{HAN}]")
    assert [text for text in texts if half_width.search(text)] == []
    assert [text for text in texts if spaces.search(text)] == []
    assert [text for text in texts if no_space_before_latin.search(text)] == []


class TextParser(HTMLParser):
    """The visible texts and labels of a page, and those of its figures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = dict(attrs).get("id") or "code" if tag == "script" else tag
        self.texts += [value for name, value in attrs if name in ("aria-label", "title", "alt") and value]

    def handle_data(self, data: str) -> None:
        if self.tag == "figures":
            self.texts += figure_texts(json.loads(data))
        elif self.tag == "filters":
            self.texts += [re.sub(r"<[^>]*>|\{\w+\}", " ", text) for text in filter_texts(json.loads(data))]
        elif self.tag not in ("style", "code"):
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""


def figure_texts(value: Any, key: str = "") -> list[str]:
    """Names, titles, labels and hover texts of figures, without tags and placeholders of plotly."""
    if isinstance(value, dict):
        return [text for name, child in value.items() for text in figure_texts(child, name)]
    if isinstance(value, list):
        return [text for child in value for text in figure_texts(child, key)]
    if not isinstance(value, str) or key not in ("name", "text", "hovertemplate", "ticktext", "customdata"):
        return []
    return [html.unescape(re.sub(r"<[^>]*>|%\{[^}]*\}", " ", value))]


def filter_texts(data: dict[str, Any]) -> Iterator[str]:
    """Words, captions, notes and labels of the numbers of the filter."""
    yield from data["words"].values()
    for one in data["slices"].values():
        yield one["caption"]
        for period in one["periods"].values():
            yield from (note for *_, note in period["figures"].values())
            for chart in period["lists"]:
                yield from (chart["caption"], *(row[3] for row in chart["rows"]))


def data_texts(value: Any) -> Iterator[str]:
    """All strings in a view."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in (*value, *value.values()):
            yield from data_texts(child)
    elif isinstance(value, list | tuple | frozenset):
        for child in value:
            yield from data_texts(child)


def own_latin_words(page: str, data: set[str]) -> list[str]:
    """Texts with Latin letters on a page that are not from the data."""
    own_messages = {text for _, pairs in messages_of("zh") for pair in pairs for text in pair}
    values = {*data, *(shorten(text, size) for text in data for size in (40, 60))} - own_messages
    pattern = re.compile("|".join(re.escape(text) for text in sorted(values, key=len, reverse=True) if text.strip()))
    remaining = [NAMES.sub("", pattern.sub("", COMMANDS.sub("", text))) for text in TextParser(page).texts]
    return [text for text in remaining if re.search("[A-Za-z]", text)]


FILTERED = filtered_view(sources=30, segments=50, weeks=60)
SESSIONS = replace(FULL, has_people=False)
WITHOUT_VALUES = replace(FULL, events=replace(FULL.events, value=None)) if FULL.events else FULL


@pytest.mark.parametrize(
    "view", [FULL, FILTERED, EMPTY, SESSIONS, WITHOUT_VALUES, replace(EMPTY, enabled=FULL.enabled)]
)
def test_a_report_in_chinese_has_no_english_words_of_its_own(view: ReportView) -> None:
    with use_language("zh"):
        texts = sections.title(view), sections.lead(view), sections.groups(view)
        page = html_page.page(*texts, "let Plotly;", filter_data.filters(view))
    assert ('id="filters"' in page) == (view is FILTERED)
    assert '<html lang="zh">' in page
    assert own_latin_words(page, {*data_texts(view), "recall_20"}) == []


def test_the_filter_writes_its_texts_in_chinese_and_cuts_names_as_the_page(browser: Browser, tmp_path: Path) -> None:
    """Takes 2 s: a browser runs the script."""
    shop = filtered_view(sources=2, segments=1, weeks=60).shop
    assert shop is not None
    items = tuple(SoldItem(name * 3, 9.0, 8.0, 7.0) for name in (CHINESE, ARABIC, EMOJI, "cup & mug "))
    periods = tuple(replace(one, items=replace(one.items, best=items, risers=())) for one in shop.slices[0].periods)
    slices = tuple(replace(one, periods=periods) for one in shop.slices)
    view = replace(FILTERED, shop=replace(shop, slices=slices, sales=periods[0].items))
    with use_language("zh"):
        texts = sections.title(view), sections.lead(view), sections.groups(view)
        html_text = html_page.page(*texts, get_plotlyjs(), filter_data.filters(view))
    (tmp_path / "page.html").write_text(html_text)
    page = browser.new_page()
    labels = "figures['items-0'].layout.annotations.map((one) => one.text)"
    page.goto(f"file://{tmp_path}/page.html#overview")
    before = page.evaluate("originals['items-0'].layout.annotations.map((one) => one.text)")
    page.goto(f"file://{tmp_path}/page.html#period=13")
    after = page.evaluate(labels)
    state, caption = page.inner_text("#filter-state"), page.get_attribute("#items-0", "aria-label")
    page.close()
    cut = [one for one in after if "…  <b>8</b>" in one.replace("\u2069", "")]
    assert after == before and len({*after}) == 4 and cut == after[:3]
    assert state == "当前显示：全部数据源、最近 13 个完整周。"
    assert caption is not None and caption.startswith("畅销商品。按扣除退货后的销售额")


def test_a_user_page_in_chinese_has_no_english_words_of_its_own() -> None:
    words = test_profile_renderer.WORDS
    with use_language("zh"):
        unusual = user_changes.unusual({"vector": {"weekend": 4.8, "hour_sin": -3.0}}, words)
        drift = user_changes.changes_text({"weekend": 0.0}, {"weekend": 4.8}, words)
        sections = test_profile_renderer.SECTIONS | unusual | {"drift": {"7": drift}, "vector": {"weekend": 1.0}}
        page = user_page.as_html(test_profile_renderer._view(sections))
    assert "概率 82.3%" in page and "购买 7 次、浏览 1,200 次" in page
    population = words.derived.population
    assert population is not None
    data = {*data_texts(test_profile_renderer.SECTIONS), *data_texts(test_profile_renderer.NAMES), "Asia/Kolkata"}
    data |= {*data_texts(population.words), "weekend", "EUR", "at risk", "shop:a", "Basic", "Behavior", "Preference"}
    cup = shorten(test_profile_renderer.NAMES["shop:11"], 60)
    # `orders` is a field of the profile.
    assert own_latin_words(page, {*data, cup, "because you bought"}) == ["orders"]


def test_the_language_ends_with_its_block_and_is_not_that_of_other_threads() -> None:
    texts = []
    with pytest.raises(RuntimeError), use_language("zh"):
        thread = threading.Thread(target=lambda: texts.append(translate("orders")))
        thread.start()
        thread.join()
        texts.append(translate("orders"))
        raise RuntimeError
    assert [*texts, translate("orders")] == ["orders", "订单数", "orders"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("en", ["1 day", "1,200 days", "recall of a{b}"]), ("zh", ["1 天", "1,200 天", "a{b} 的 recall"])],
)
def test_numbers_and_names_are_in_the_order_of_the_language(name: Language, expected: list[str]) -> None:
    with use_language(name):
        days = [translate_count("{number} day", "{number} days", n) for n in (1, 1_200)]
        assert [*days, translate("{metric} of {model}", metric="recall", model="a{b}")] == expected


def test_units_and_limits_of_all_learners_are_messages() -> None:
    texts = {metric.unit for learner in LEARNERS for metric in learner.metrics}
    texts |= {limit for learner in LEARNERS for limit in learner.limits}
    assert texts <= {source for _, pairs in messages_of("zh") for source, _ in pairs}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("popular in 茶具", "茶具类热门商品"),
        ("because you bought shop:popular now", "因为您购买过 shop:popular now"),
        (basket_lists._REASONS["own_counts"].format(action="bought"), "因为您曾经购买过"),
        (basket_lists._REASONS["sequence_rules"], "常与您最近的商品一起出现"),
        (basket_lists._history_reason("bought", 3, 7, 2), "您购买过 3 次，约每 7 天一次；最近一次在 2 天前"),
        (basket_lists._history_reason("looked at", 1, 0, 0), "您 1 天内看过"),
        ("returns per purchase: 2 instead of 0.1", "每次购买的退货数：2（通常为 0.1）"),
        ("订单数 (last 28d) 4 (orders); raises the score", "订单数（近 28 天）4 (orders)，提高得分"),
        ("订单数 unknown; lowers the score", "订单数 unknown，降低得分"),
        ("another text", "another text"),
    ],
)
def test_stored_reasons_are_shown_in_the_language_and_values_stay(stored: str, expected: str) -> None:
    with use_language("zh"):
        assert reason_texts.translate_reason(stored) == expected
    assert reason_texts.translate_reason(stored) == stored


def test_every_reason_of_the_steps_has_a_message() -> None:
    actions = ("bought", "looked at")
    reasons = {text.format(action=action) for text in basket_lists._REASONS.values() for action in actions}
    assert reasons <= {*reason_texts._REASONS} and {*unusual_days._TEXTS.values()} <= {*reason_texts._PARTS}


def shipped_profiles() -> DerivedTable:
    return table_declaration.load(str(ROOT / "conf" / "derive" / "user_profiles.toml"), {})


def test_a_shop_declares_words_of_segments_in_another_language() -> None:
    profile = shipped_profiles()
    assert profile.population is not None and profile.population.translated_words.keys() == {"zh"}
    assert profile.population.translated_words["zh"].keys() == profile.population.words.keys()
    description = "expensive items, at weekends, high unknown (3)"
    rule = "weekend > 0.6432 and log_price <= 1.371"
    with use_language("zh"):
        assert rule_words.translate_description(description, profile) == "偏好高价商品、周末活跃、high unknown (3)"
        words = profile.population.words_in("zh")
        in_words = rule_words.rule_in_words(rule, words, profile.vector.dimensions)
    assert in_words == "周末活跃（weekend 高于 64%）、偏好低价商品（price 不高于 2.94）"
    assert rule_words.translate_description(description, profile) == description


def test_translated_words_of_an_unknown_dimension_or_language_are_an_error() -> None:
    document = test_profile_renderer.DERIVED.model_dump(by_alias=True)
    for translated, problem in (({"zh": {"weekday": ("a", "b")}}, "translated_words.zh"), ({"xx": {}}, "'en' or 'zh'")):
        population = document["population"] | {"translated_words": translated}
        with pytest.raises(ValueError, match=problem):
            DerivedTable.model_validate(document | {"population": population})


@pytest.mark.parametrize("name", [CHINESE, ARABIC, EMOJI])
def test_names_are_cut_by_their_width_on_the_screen_and_keep_their_script(name: str) -> None:
    short = shorten(name * 3, 40)
    assert 37 <= width(short) <= 40 and short.endswith("…") and (name * 3).startswith(short[:-1].rstrip())
    assert not short.removesuffix("…").endswith("\u200d")
    assert width(pad(short, 45)) == 45
    bars = chart_elements.horizontal_bars([name * 3], [1.0], ["1"], "@c0")
    label = bars["layout"]["annotations"][0]["text"]
    # Isolates keep the number behind an Arabic name.
    start, end = ("\u2068", "\u2069") if name == ARABIC else ("", "")
    assert label == f"{start}{short}{end}  <b>1</b>"
    assert label_items("shop:1", {"shop:1": name}) == f"{start}{shorten(name, 60)}{end} (shop:1)"


def test_the_language_is_a_setting_that_a_flag_overrides(tmp_path: Path) -> None:
    config = tmp_path / "shop.toml"
    start = '[paths]\nwarehouse = "w"\ncheckpoints = "c"\n[capture.sources.shop]\npath = "in"\nmapping = "m"\n[serve]\n'
    config.write_text(f'{start}language = "zh"\n')
    parser = job.parser("")
    job.add_language(parser)
    languages = [
        job.load(parser.parse_args(["--config", str(config), *flags])).serve.language
        for flags in ([], ["--language", "en"])
    ]
    assert languages == ["zh", "en"]
    config.write_text(f'{start}language = "fr"\n')
    with pytest.raises(BadSettings, match="serve.language"):
        job.load(parser.parse_args(["--config", str(config)]))
