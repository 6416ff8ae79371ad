"""Real logs as input of the learners, without Spark: shipped logs, and MovieLens 100K, which is downloaded.

The shipped logs are cleaned by the rules of their mappings in conf/sources/.
"""

import hashlib
import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from profilestream.learn.factors.kernels import als_rows

DATA = Path(__file__).parent.parent / "data"
ML_100K_PACKAGE = "recbole==1.2.1"
ML_100K_PATH = "recbole/dataset_example/ml-100k/ml-100k.inter"
ML_100K_SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
# The defaults of derive.event_weights.
PURCHASE, RETURN = 5.0, -5.0


@dataclass(frozen=True)
class Log:
    """Events of identified users, ordered by time.

    Args:
        users, items: sorted ids.
        user, item: of each event, as positions in `users` and `items`.
        weight: of each event; for logs of purchases, PURCHASE or RETURN.
        time_micros: microseconds since 1970.
        category: of each event, or None.
        units: quantity of each event; fuel in gallons.
    """

    name: str
    users: NDArray[np.object_]
    items: NDArray[np.object_]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float64]
    time_micros: NDArray[np.int64]
    category: NDArray[np.object_]
    units: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time_micros)

    def rows(self, begin: int, end: int) -> pa.Table:
        """Events with numbers in [begin, end), with als_rows.EVENT."""
        part = slice(begin, end)
        return als_rows.table(
            als_rows.EVENT, end - begin, user_id=self.users[self.user[part]], item_id=self.items[self.item[part]],
            weight=self.weight[part], time_micros=self.time_micros[part], category=self.category[part],
        )  # fmt: skip


def online_retail_lines() -> pd.DataFrame:
    """Online Retail: lines with a customer id, cleaned by the rules of conf/sources/online_retail.toml.

    `user`, `item`, `is_return`, `units`, `price`, `region`, and `local`, the time in the United Kingdom.
    """
    lines = pd.read_parquet(DATA / "online_retail" / "online_retail_2010_2011.parquet")
    is_return = lines["InvoiceNo"].str.startswith("C")
    usable = (
        lines["StockCode"].str.match("[0-9]{5}")
        & ((lines["Quantity"].astype(int) >= 0) | is_return)
        & (lines["UnitPrice"].astype(float) > 0)
        & ~lines.duplicated()
        & (lines["CustomerID"] != "")
    )
    columns = {
        "user": lines["CustomerID"].str.replace(".0", "", regex=False),
        "item": lines["StockCode"].str.upper(),
        "is_return": is_return,
        "units": lines["Quantity"].astype(float).abs(),
        "price": lines["UnitPrice"].astype(float),
        "region": lines["Country"],
        "local": pd.to_datetime(lines["InvoiceDate"]),
    }
    return pd.DataFrame(columns)[usable]


def online_retail() -> Log:
    """Purchases and returns of `online_retail_lines`."""
    lines = online_retail_lines()
    local = lines["local"].dt.tz_localize("Europe/London")
    return _log(
        "online_retail",
        user=lines["user"],
        item=lines["item"],
        weight=lines["is_return"].map({True: RETURN, False: PURCHASE}),
        time_micros=local.dt.tz_convert("UTC").dt.tz_localize(None),
        category=pd.Series(None, index=lines.index, dtype=object),
        units=lines["units"],
    )


def complete_journey() -> Log:
    """Complete Journey, a fifth of the households, cleaned by the rules of conf/sources/complete_journey.toml."""
    (path,) = (DATA / "complete_journey").glob("transactions*.parquet")
    lines = pd.read_parquet(path)
    products = pd.read_parquet(DATA / "complete_journey" / "products.parquet").set_index("product_id")
    line_products = products.reindex(lines["product_id"]).set_index(lines.index)
    category = line_products["product_category"].fillna(line_products["department"])
    category = category.mask(line_products["product_type"].str.startswith("GASOLINE") == True, "FUEL")  # noqa: E712
    paid = lines[["sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"]].ne(0).any(axis=1)
    usable = (category != "COUPONS/STORE & MFG") & (lines["quantity"] != 0) & paid
    usable &= ~lines.duplicated(["basket_id", "product_id"])
    is_in_gallons = (category == "FUEL") & (lines["quantity"] >= 10)
    return _log(
        "complete_journey",
        user=lines["household_id"].astype(str)[usable],
        item=lines["product_id"].astype(str)[usable],
        weight=pd.Series(PURCHASE, index=lines.index[usable]),
        time_micros=lines["transaction_timestamp"][usable],
        category=category[usable],
        units=lines["quantity"].mask(is_in_gallons, lines["quantity"] / 1000)[usable],
    )


def rees46() -> Log:
    """REES46, 2 hours and 50 minutes: views, carts and purchases of different users, items, seconds and types."""
    (path,) = (DATA / "rees46").glob("*.csv.gz")
    lines = pd.read_csv(path, dtype=str).dropna(subset="user_session")
    lines = lines[lines["user_session"].str.len() == 36].drop_duplicates()
    return _log(
        "rees46",
        user=lines["user_id"],
        item=lines["product_id"],
        weight=1.0,
        time_micros=pd.to_datetime(lines["event_time"], format="%Y-%m-%d %H:%M:%S UTC"),
        category=None,
    )


def otto() -> Log:
    """OTTO, 20 sessions of up to 4 weeks, each as a user: clicks, carts and orders."""
    lines = pd.read_json(DATA / "otto" / "train_20sessions.jsonl", lines=True).explode("events", ignore_index=True)
    events = pd.DataFrame(lines["events"].to_list())
    return _log(
        "otto",
        user=lines["session"].astype(str),
        item=events["aid"].astype(str),
        weight=1.0,
        time_micros=pd.to_datetime(events["ts"], unit="ms"),
        category=None,
    )


def by_category(log: Log) -> Log:
    """The log with categories as items: one event per user, time and category; events without one are left out."""
    has_category = np.flatnonzero(log.category.astype(bool))
    categories, category = np.unique(log.category[has_category], return_inverse=True)
    keys = np.column_stack([log.user[has_category], log.time_micros[has_category], category])
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    rows = has_category[first]
    return Log(
        f"{log.name} by category", log.users, categories, log.user[rows], category[first], log.weight[rows],
        log.time_micros[rows], log.category[rows], log.units[rows],
    )  # fmt: skip


@dataclass(frozen=True)
class Ratings:
    """User, item and stars of each rating, in the order of the file."""

    user: NDArray[np.object_]
    item: NDArray[np.object_]
    stars: NDArray[np.float64]

    def rows(self, index: NDArray[np.int64]) -> pa.Table:
        """The ratings at these positions as events of mode explicit, in this order, one second apart."""
        n = len(index)
        return als_rows.table(
            als_rows.EVENT, n, user_id=self.user[index], item_id=self.item[index], weight=np.ones(n),
            rating=self.stars[index], time_micros=1_000_000 * np.arange(1, n + 1),
        )  # fmt: skip


def ml_100k(folder: Path) -> Ratings:
    """MovieLens 100K (GroupLens), read from the wheel of recbole, which is downloaded into the folder once.

    Raises:
        ValueError: the file does not have the expected checksum.
    """
    if not list(folder.glob("recbole-*.whl")):
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*download, ML_100K_PACKAGE], check=True)
    (wheel,) = folder.glob("recbole-*.whl")
    text = zipfile.ZipFile(wheel).read(ML_100K_PATH)
    if hashlib.sha256(text).hexdigest() != ML_100K_SHA256:
        raise ValueError(f"{ML_100K_PATH} in {wheel} does not have SHA-256 {ML_100K_SHA256}: remove the wheel")
    frame = pd.read_csv(io.BytesIO(text), sep="\t", header=0, names=["user", "item", "stars", "at"], dtype=str)
    return Ratings(frame["user"].to_numpy(object), frame["item"].to_numpy(object), frame["stars"].to_numpy(float))


def _log(name: str, **columns: Any) -> Log:
    frame = pd.DataFrame(columns)
    frame["time_micros"] = frame["time_micros"].astype("datetime64[us]").astype("int64")
    # Lines of the same time are ordered by user and item, so the result does not depend on the order of the file.
    frame = frame.sort_values(["time_micros", "user", "item"], kind="stable")
    users, user = np.unique(frame["user"].to_numpy(object), return_inverse=True)
    items, item = np.unique(frame["item"].to_numpy(object), return_inverse=True)
    category = np.array([name if isinstance(name, str) else None for name in frame["category"]], object)
    weight, time_micros, units = (frame[name].to_numpy() for name in ("weight", "time_micros", "units"))
    return Log(name, users, items, user, item, weight, time_micros, category, units.astype(float))
