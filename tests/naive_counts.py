"""Counts of the shipped logs without Spark; tests compare the counts of capture with them.

Each function reads one log under data/ and returns a dict of counts. They are simple loops over text, easy to review,
and share no code with the package.
"""

import csv
import functools
import gzip
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

DATA = Path(__file__).resolve().parents[1] / "data"

Counts = dict[str, Any]


def retail_rule(invoice_no: str, stock_code: str, quantity: str, unit_price: str) -> str | None:
    """The first rule that rejects a line of Online Retail; None when the line is usable."""
    if not re.match(r"[0-9]{5}", stock_code):
        return "not_a_product"
    if int(quantity) < 0 and not invoice_no.startswith("C"):
        return "stock_adjustment"
    if float(unit_price) <= 0:
        return "price_not_positive"
    return None


def online_retail() -> Counts:
    """Counts of lines. rows_in = rejected + duplicate (copies of an earlier usable line) + clean."""
    lines = pd.read_parquet(DATA / "online_retail" / "online_retail_2010_2011.parquet")
    rejected: Counter[str] = Counter()
    clean: Counter[tuple[str, ...]] = Counter()
    returns = anonymous = 0
    for line in lines.itertuples(index=False, name=None):
        invoice_no, stock_code, _, quantity, _, unit_price, customer_id, _ = line
        rule = retail_rule(invoice_no, stock_code, quantity, unit_price)
        if rule:
            rejected[rule] += 1
            continue
        clean[line] += 1
        if clean[line] == 1:
            returns += invoice_no.startswith("C")
            anonymous += customer_id == ""
    return {
        "rows_in": len(lines),
        "rejected": dict(rejected),
        "duplicate": clean.total() - len(clean),
        "clean": len(clean),
        "clean_returns": returns,
        "clean_anonymous": anonymous,
    }


@functools.cache
def online_retail_days() -> list[Counts]:
    """Counts of the daily files of Online Retail, one dict per day."""
    lines = pd.read_parquet(DATA / "online_retail" / "online_retail_2010_2011.parquet")
    days: dict[str, Counts] = {}
    for line in lines.itertuples(index=False, name=None):
        invoice_no, stock_code, _, quantity, at, unit_price, customer_id, _ = line
        day = days.setdefault(at[:10], dict.fromkeys(("rows", "rejected", "anonymous", "logarithms"), 0) | {"last": at})
        day["rows"] += 1
        day["last"] = max(day["last"], at)
        if retail_rule(invoice_no, stock_code, quantity, unit_price):
            day["rejected"] += 1
            continue
        day["anonymous"] += customer_id == ""
        day["logarithms"] += math.log(float(unit_price))
    return [days[day] for day in sorted(days)]


def journey_rule(category: str | None, quantity: int, money: tuple[float, ...]) -> str | None:
    """The first rule that rejects a line of Complete Journey; None when the line is usable.

    Args:
        money: the amount paid and the three discounts.
    """
    if category == "COUPONS/STORE & MFG":
        return "not_a_product"
    if quantity == 0:
        return "nothing_sold"
    return None if any(money) else "nothing_paid"


def complete_journey(weeks: range) -> Counts:
    """Counts of some weeks (1 to 53), with categories, brands and attributes from products and households.

    Dollars are counted in cents and fuel in thousandths of a gallon, so sums are integers.
    """
    lines = _journey("transactions_2017_fifth")
    products = {product: columns for product, _, *columns in _rows(_journey("products"))}
    demographics = _journey("demographics")
    households = {household: columns for household, *columns in _rows(demographics)}
    rejected: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    categories: Counter[str | None] = Counter()
    brands: Counter[str | None] = Counter()
    attributes: Counter[tuple[str, str]] = Counter()
    fuel = cents = 0
    ids, users = set(), set()
    chosen = lines[lines["week"].isin(weeks)]
    for user, _, basket, item, quantity, value, *discounts, _, _ in _rows(chosen):
        department, brand, category, product_type, _ = products.get(item, (None,) * 5)
        rule = journey_rule(category, quantity, (value, *discounts))
        if rule:
            rejected[rule] += 1
            continue
        ids.add((basket, item))
        users.add(user)
        cents += round(100 * value)
        is_fuel = product_type is not None and product_type.startswith("GASOLINE")
        is_metered = is_fuel and quantity >= 10
        fuel += quantity if is_metered else 0
        warned["fuel_in_gallons"] += is_metered
        warned["fuel_prepaid"] += is_fuel and not is_metered
        warned["free"] += value == 0
        warned["product_unknown"] += item not in products
        categories["FUEL" if is_fuel else category or department] += 1
        brands[brand] += 1
        pairs = zip(demographics.columns[1:], households.get(user, ()), strict=False)
        attributes.update((key, value) for key, value in pairs if value is not None)
    return {
        "rows_in": len(chosen),
        "rejected": dict(rejected),
        "clean": len(ids),
        "warned": dict(warned),
        "users": len(users),
        "cents": cents,
        "fuel": fuel,
        "categories": dict(categories),
        "brands": dict(brands),
        "attributes": dict(attributes),
    }


def _journey(name: str) -> pd.DataFrame:
    return pd.read_parquet(DATA / "complete_journey" / f"{name}.parquet")


def _rows(table: pd.DataFrame) -> Iterator[Any]:
    return table.itertuples(index=False, name=None)


def rees46() -> Counts:
    """Counts of lines. The last line of the file is truncated in its user_id: it has eight columns of nine."""
    text = gzip.decompress((DATA / "rees46" / "2019-Oct_first17434.csv.gz").read_bytes()).decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    complete = [tuple(row) for row in rows if len(row) == len(header)]
    events = [dict(zip(header, row, strict=True)) for row in dict.fromkeys(complete)]
    return {
        "rows_in": len(rows),
        "truncated": len(rows) - len(complete),
        "duplicate": len(complete) - len(events),
        "clean": len(events),
        "clean_by_type": dict(Counter(event["event_type"] for event in events)),
        "users": len({event["user_id"] for event in events}),
        "user_id_empty": sum(event["user_id"] == "" for event in events),
        "price_zero": sum(float(event["price"]) == 0 for event in events),
        "category_code_empty": sum(event["category_code"] == "" for event in events),
        "brand_empty": sum(event["brand"] == "" for event in events),
    }


def otto() -> Counts:
    """Counts of the events; each line of the file is a session."""
    lines = (DATA / "otto" / "train_20sessions.jsonl").read_text(encoding="utf-8").splitlines()
    sessions = [json.loads(line) for line in lines]
    events = [
        (session["session"], event["aid"], event["ts"], event["type"])
        for session in sessions
        for event in session["events"]
    ]
    return {
        "sessions": len(sessions),
        "rows_in": len(events),
        "duplicate": len(events) - len(set(events)),
        "clean": len(set(events)),
        "clean_by_type": dict(Counter(event_type for *_, event_type in set(events))),
        "products": len({aid for _, aid, _, _ in events}),
    }
