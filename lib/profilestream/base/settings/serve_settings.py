"""Settings of the steps that serve results."""

from typing import Literal

from pydantic import Field, field_validator

from profilestream.base.language import ENGLISH, Language
from profilestream.base.settings.frozen_model import Frozen


class Scores(Frozen):
    """Recommendation lists of `serve_scores` (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` writes the lists after its stages.
        model: `newest`: the current version of the table `factors`; else an alias of a published version (`champion`).
        purposes: the lists that each user gets. `for_you`: items that are new to the user, by the factors. By the table
            `basket_counts`, if `learn.rankers` is enabled: `buy_again`, items of the user; `next_basket`, both;
            `next_in_session`, items that follow the user's latest items in sessions.
        top_k: items per user and purpose.
        active_within_days: only users with an event in this many days before the newest event; null: all users.
        exclude_bought: for_you: exclude items that the user ever bought and did not return completely.
        exclude_seen: for_you: exclude items for which the user's stored events have a positive total weight, such as
            viewed items; stored are the latest `learn.factors.max_events_per_user` events.
        max_item_age_days: exclude items without an event in this many days before the newest event; `inf`: none.
        max_per_category: for_you: maximum number of items of one category per list; null: no limit.
        max_share_per_item: for_you: maximum share of the lists of a run that contain the same item; null: no limit.
    """

    enabled: bool = False
    model: str = Field(default="newest", pattern=r"^[a-z][a-z0-9_-]*$")
    purposes: tuple[Literal["for_you", "buy_again", "next_basket", "next_in_session"], ...] = Field(
        default=("for_you", "buy_again", "next_basket", "next_in_session"), min_length=1
    )
    top_k: int = Field(default=10, ge=1, le=1000)
    active_within_days: float | None = Field(default=None, gt=0)
    exclude_bought: bool = True
    exclude_seen: bool = True
    max_item_age_days: float = Field(default=90.0, gt=0)
    max_per_category: int | None = Field(default=None, ge=1)
    max_share_per_item: float | None = Field(default=None, gt=0, le=1)


class OutcomeScores(Frozen):
    """Scores of outcomes by `serve_outcomes` (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
        active_within: a user has scores if the user has an event in this interval before the newest event; `lifetime`:
            all users.
        max_reasons: reasons per score, at most; with 0, scores are computed faster.
    """

    enabled: bool = False
    active_within: str = Field(default="lifetime", pattern=r"^([1-9]\d{0,4}[hd]|lifetime)$")
    max_reasons: int = Field(default=3, ge=0)


class Anomalies(Frozen):
    """Unusual days of users by `serve_anomalies` (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
        report_days: number of last days whose unusual days are written.
        history_days: only events of this many days before the newest event are read.
        half_life_days: half-life of the weight of an earlier day in a user's baseline.
        max_share: a day is unusual if at most this share of the days of all users has a score at least as high.
    """

    enabled: bool = False
    report_days: int = Field(default=28, ge=1)
    history_days: int = Field(default=365, ge=1)
    half_life_days: float = Field(default=90.0, gt=0)
    max_share: float = Field(default=0.001, gt=0, le=0.05)


class Tags(Frozen):
    """Tags with evidence, RFM segments, loyalty tiers and cohorts (docs/tags.md).

    Args:
        enabled: whether `run_pipeline` updates them after its stages.
        file: the declaration file; empty: none.
    """

    enabled: bool = False
    file: str = ""


class PlainTables(Frozen):
    """The tables `users` and `items` of `serve_tables` (docs/for_analysts.md).

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
    """

    enabled: bool = False


class AudienceFiles(Frozen):
    """The files of `serve_audience` (docs/audiences.md).

    Args:
        columns: columns of `users` in the files, in this order; `user_id` is one of them.
        suppression: files with a column `user_id`, `.csv` with a header or `.parquet`; these users are never exported.
    """

    columns: tuple[str, ...] = ("user_id",)
    suppression: tuple[str, ...] = ()

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if "user_id" not in columns or len(set(columns)) < len(columns):
            raise ValueError("user_id must be one of the columns, and each column may be listed once")
        return columns


class Report(Frozen):
    """The page of `serve_report`.

    Args:
        enabled: whether `run_pipeline` writes it after its stages.
        path: path of the page; empty: `report.html` in the parent folder of the warehouse.
    """

    enabled: bool = False
    path: str = ""


class Serve(Frozen):
    """The steps that serve results.

    Args:
        user_ids: whether a user id is a person (`people`) or a session (`sessions`, for a log without users). With
            sessions, tags, RFM segments, loyalty tiers and page sections that need people are left out; outcomes,
            campaigns and trends are refused.
        language: of the page of `serve_report`, and of the text and page of `serve_user`: `en` or `zh` (Chinese). Names
            from the data are not translated.
    """

    user_ids: Literal["people", "sessions"] = "people"
    language: Language = ENGLISH

    scores: Scores = Scores()
    outcomes: OutcomeScores = OutcomeScores()
    anomalies: Anomalies = Anomalies()
    tags: Tags = Tags()
    tables: PlainTables = PlainTables()
    audience: AudienceFiles = AudienceFiles()
    report: Report = Report()
