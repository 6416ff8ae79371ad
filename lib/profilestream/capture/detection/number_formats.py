"""The format of numbers in texts: decimal comma, thousands separators, currency signs."""

import re
from dataclasses import dataclass

_PLAIN = re.compile(r"[+-]?\d*\.?\d+(e[+-]?\d+)?|[+-]?\d+\.", re.IGNORECASE)
_GROUPED_POINT = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_GROUPED_COMMA = re.compile(r"[+-]?\d{1,3}([. ]\d{3})+(,\d+)?|[+-]?\d+,\d+|[+-]?\d+")
_CURRENCIES = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "CNY", "￥": "CNY", "元": "CNY", "₹": "INR"}


@dataclass(frozen=True)
class NumberFormat:
    """How texts become numbers.

    Args:
        sql: SQL with `{}` for the column; it returns a text that capture parses.
        share: share of the values that have this format.
        numbers: the values as numbers, without those of another format.
        currency: code of the currency sign; empty if there is none.
    """

    sql: str
    share: float
    numbers: tuple[float, ...]
    currency: str = ""


def detect(values: list[str]) -> NumberFormat | None:
    """The format of the values (not blank); null if fewer than 80 % of them are numbers."""
    if not values:
        return None
    stripped = [re.sub(r"[^0-9.,+e -]", "", v, flags=re.IGNORECASE).strip() for v in values]
    signs = {sign for v in values for sign in _CURRENCIES if sign in v}
    has_signs = bool(signs) or any(re.fullmatch(r"-?[\d.,]+ ?[A-Z]{3}|[A-Z]{3} ?-?[\d.,]+", v) for v in values[:100])
    texts = [re.sub(r"[A-Za-z ]", "", v) for v in stripped] if has_signs else [v.strip() for v in values]
    plain = [t for t in texts if _PLAIN.fullmatch(t)]
    point = [t for t in texts if _PLAIN.fullmatch(t) or _GROUPED_POINT.fullmatch(t)]
    comma = [t for t in texts if _GROUPED_COMMA.fullmatch(t)]
    column = "regexp_replace({}, '[^0-9.,-]', '')" if has_signs else "{}"
    if len(plain) >= 0.99 * len(values):
        matches, sql = plain, column
    elif len(comma) > len(point) or (len(comma) == len(point) and _has_cents(texts)):
        matches = [re.sub(r"[. ]", "", t).replace(",", ".") for t in comma]
        has_groups = any(re.search(r"[. ]\d{3}", t) for t in comma)
        sql = (
            f"replace(regexp_replace({column}, '[. ]', ''), ',', '.')" if has_groups else f"replace({column}, ',', '.')"
        )
    else:
        matches = [t.replace(",", "") for t in point]
        sql = f"replace({column}, ',', '')" if any("," in t for t in point) else column
    if len(matches) < 0.8 * len(values):
        return None
    currency = _CURRENCIES[signs.pop()] if len(signs) == 1 else ""
    return NumberFormat(sql, len(matches) / len(values), tuple(float(m) for m in matches), currency)


def _has_cents(texts: list[str]) -> bool:
    return any(re.search(r",\d{1,2}$", t) for t in texts)
