# %% [markdown]
# # A shop in five charts
#
# A notebook in percent format. VS Code and PyCharm run its cells; `jupytext --to ipynb docs/notebook.py` converts it
# for Jupyter. It needs `pip install polars deltalake plotly`, and the warehouse that `make demo` creates. The questions
# of [for_analysts.md](for_analysts.md) show more tables.

# %%
import plotly.express as px
import polars as pl

WAREHOUSE = "demo/warehouse"

users, items, events = (pl.scan_delta(f"{WAREHOUSE}/{name}") for name in ("users", "items", "events"))
users.head(3).collect()

# %% [markdown]
# ## Revenue by week, of new and returning customers
#
# A customer is new in the week of the first purchase. The first and the last week can be incomplete.

# %%
week = pl.col("event_time").dt.truncate("1w").dt.date()
is_new = pl.when(week == week.min().over("user_id")).then(pl.lit("new")).otherwise(pl.lit("returning"))
weeks = (
    events.filter(pl.col("event_type") == "purchase", pl.col("user_id").is_not_null())
    .group_by(week=week, customers=is_new)
    .agg(revenue=pl.col("value").sum())
    .sort("week", "customers")
    .collect()
)
px.bar(weeks, x="week", y="revenue", color="customers")

# %% [markdown]
# ## How unequal is the spend of customers?
#
# The curve shows which share of the revenue the best customers have.

# %%
spend = (
    users.filter(pl.col("spent_net") > 0)
    .sort("spent_net", descending=True)
    .select(
        customers=pl.int_range(1, pl.len() + 1) / pl.len(),
        revenue=pl.col("spent_net").cum_sum() / pl.col("spent_net").sum(),
    )
    .collect()
)
px.line(spend, x="customers", y="revenue", labels={"customers": "share of customers", "revenue": "share of revenue"})

# %% [markdown]
# ## Who is valuable and may leave?
#
# One point per customer: the predicted spend of 180 days and the probability of no purchase in 60 days.

# %%
risks = (
    users.select("user_id", "churn_60d", "value_180d", "rfm_segment", "orders")
    .filter(pl.col("churn_60d").is_not_null(), pl.col("value_180d") > 0)
    .sort("rfm_segment", "user_id")
    .collect()
)
px.scatter(risks, x="churn_60d", y="value_180d", color="rfm_segment", hover_name="user_id", log_y=True)

# %% [markdown]
# ## Which items rise and which fall?
#
# Pieces sold in the last 28 days and in the 28 days before. Items above the diagonal rise.

# %%
trends = (
    items.filter(pl.col("trend") > 0)
    .select("name", "units_28d", units_before=pl.col("units_28d") / pl.col("trend"))
    .sort("units_28d", "name", descending=True)
    .head(300)
    .collect()
)
px.scatter(trends, x="units_before", y="units_28d", hover_name="name", log_x=True, log_y=True)

# %% [markdown]
# ## When do customers order?
#
# Orders by weekday (1 is Monday) and hour in the shop's time zone.

# %%
local_time = pl.col("event_time").dt.convert_time_zone("Europe/London")
orders = (
    events.filter(pl.col("event_type") == "purchase")
    .group_by(weekday=local_time.dt.weekday(), hour=local_time.dt.hour())
    .agg(orders=pl.col("order_id").n_unique())
    .sort("weekday", "hour")
    .collect()
)
px.density_heatmap(orders, x="hour", y="weekday", z="orders", histfunc="sum", nbinsx=24, nbinsy=7)
