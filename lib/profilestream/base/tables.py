"""Declarations of the Delta tables with fixed columns, in flow order.

Tables with columns from TOML are declared by the stage that writes them; table_registry lists all tables.
"""

from profilestream.base.columns import (
    BATCH_ID,
    EPOCH,
    FREE_TEXT,
    OTHER_USER,
    RAW_PAYLOAD,
    USER,
    Column,
    Subject,
    as_of,
)
from profilestream.base.delta_table import Table

UPDATABLE = {"delta.enableDeletionVectors": "true"}
_FOLLOWED = {**UPDATABLE, "delta.enableChangeDataFeed": "true"}
NAMES = Subject("free_text", "array element")
# By suffix of a column of `items`.
_SALES_PERIODS = {"7d": " in the last 7 days", "28d": " in the last 28 days", "all": ""}
USER_ID = Column("user_id", "STRING NOT NULL", "The user, as `namespace:id`.", subject=USER)
_SOURCE = Column("source", "STRING NOT NULL", "Name of the source in the settings.")
_POSITION = Column(
    "position", "STRING NOT NULL", "Place of the record in the source, such as `file:line` or `topic/partition/offset`."
)
_INGEST_TIME = Column("ingest_time", "TIMESTAMP NOT NULL", "When the batch started; the same in a retry.", "UTC")

EVENTS = Table(
    name="events",
    meaning="One row per clean event; the input of all derived tables and learners.",
    writer="capture_events",
    columns=(
        Column("event_id", "STRING NOT NULL", "Id of the event: mapped, or a hash of the record."),
        Column("event_type", "STRING NOT NULL", "What happened, such as view, cart or purchase."),
        Column("event_time", "TIMESTAMP NOT NULL", "When it happened.", "UTC"),
        _INGEST_TIME,
        Column("event_date", "DATE NOT NULL", "Day of `event_time` in UTC."),
        Column("event_period", "DATE NOT NULL", "First day of the day, month or year of `event_date`; the partition."),
        Column("user_id", "STRING", "The user, as `namespace:id`; null for an anonymous visitor.", subject=USER),
        Column("item_id", "STRING", "The item, as `namespace:id`."),
        Column("order_id", "STRING", "The order of a purchase or return."),
        Column("category", "STRING", "Category of the item; levels are separated by a dot."),
        Column("brand", "STRING", "Brand of the item."),
        Column("price", "DOUBLE", "Price of one piece; not negative.", "currency"),
        Column("currency", "STRING", "ISO code of the currency of price and value."),
        Column("quantity", "DOUBLE", "Number of pieces; not negative.", "pieces"),
        Column(
            "value",
            "DOUBLE",
            "Mapped, or price times quantity; in the reporting currency if there is one.",
            "currency",
        ),
        Column("rating", "DOUBLE", "Rating that the user gave.", "stars or points of the source"),
        Column("session_id", "STRING", "Session id in the log; null when the log has none.", subject=USER),
        Column("query", "STRING", "Search text.", subject=FREE_TEXT),
        Column("text", "STRING", "Other text, such as a review or an item name.", subject=FREE_TEXT),
        Column(
            "target_user_id", "STRING", "Another user, such as a receiver or an invited friend.", subject=OTHER_USER
        ),
        Column("channel", "STRING", "Channel, such as web, app or store."),
        Column("device", "STRING", "Device or its type."),
        Column("region", "STRING", "Region of the user or store."),
        Column("attributes", "MAP<STRING, STRING>", "Attributes of the user by name.", subject=FREE_TEXT),
        Column(
            "extra", "MAP<STRING, STRING>", "Raw columns that the mapping does not use, as text.", subject=RAW_PAYLOAD
        ),
        Column("warnings", "ARRAY<STRING>", "Names of the warning rules that were true for the record."),
        _SOURCE,
        _POSITION,
        EPOCH,
        BATCH_ID,
    ),
    key=("source", "event_id", "event_date"),
    partitioned_by=("event_period",),
    # Readers filter by these columns only; min and max of all 30 columns take 10 % of a batch.
    properties={"delta.dataSkippingStatsColumns": "event_date,event_time"},
    distinct_columns=("event_id", "event_time", "user_id", "session_id", "order_id", "query", "text", "position"),
)

REJECTED_EVENTS = Table(
    name="rejected_events",
    meaning="One row per record that a rule rejected, with the record; it can be reprocessed.",
    writer="capture_events",
    retention="as other tables; payloads are stored for `maintain.rejected_payload_days`, by default as long as rows",
    columns=(
        _SOURCE,
        _POSITION,
        Column("rule", "STRING NOT NULL", "Name of the first rule that rejected the record."),
        Column("reason", "STRING NOT NULL", "Why, with the offending value.", subject=RAW_PAYLOAD),
        Column("payload", "STRING", "The raw record; null after its retention.", subject=RAW_PAYLOAD),
        Column("payload_encoding", "STRING NOT NULL", "`utf8` or `base64`, the form of `payload`."),
        Column(
            "payload_header",
            "STRING",
            "Header line of the file of a CSV record; columns of a typed row; key, headers and time in a topic.",
            subject=RAW_PAYLOAD,
        ),
        _INGEST_TIME,
        EPOCH,
        BATCH_ID,
        Column(
            "reprocessed_from", "STRING", "`epoch/batch_id` of the earlier row when a reprocessed record failed again."
        ),
    ),
    key=("source", "position", "epoch", "batch_id"),
)

_TREND = (
    "value: DOUBLE, batches: BIGINT, as_of: BIGINT, weight: DOUBLE, weight_squares: DOUBLE, mean: DOUBLE, "
    "squared_deviations: DOUBLE"
)

CAPTURE_BATCHES = Table(
    name="capture_batches",
    meaning="One row per capture batch with its row accounting: rows_in = rows_clean + rows_rejected + rows_duplicate.",
    writer="capture_events",
    columns=(
        _SOURCE,
        EPOCH,
        BATCH_ID,
        Column("kind", "STRING NOT NULL", "`source`: rows of the source. `reprocess`: rejected rows tried again."),
        _INGEST_TIME,
        Column("files", "BIGINT NOT NULL", "Input files.", "files"),
        Column("rows_in", "BIGINT NOT NULL", "Records read, counted at the source.", "rows"),
        Column("rows_clean", "BIGINT NOT NULL", "Records appended to `events`.", "rows"),
        Column("rows_rejected", "BIGINT NOT NULL", "Records appended to `rejected_events`.", "rows"),
        Column("rows_duplicate", "BIGINT NOT NULL", "Records that were already captured.", "rows"),
        Column("rejected_by_rule", "MAP<STRING, BIGINT> NOT NULL", "Rejected records by rule.", "rows"),
        Column("warned_by_rule", "MAP<STRING, BIGINT> NOT NULL", "Clean records with a warning, by rule.", "rows"),
        Column("event_time_min", "TIMESTAMP", "Oldest event time of the clean records; null without any.", "UTC"),
        Column("event_time_max", "TIMESTAMP", "Newest event time of the clean records; null without any.", "UTC"),
        Column("lateness_seconds_max", "DOUBLE", "Longest time from event to capture.", "seconds"),
        Column("seconds", "DOUBLE NOT NULL", "Duration of the batch.", "seconds"),
        Column("fingerprint", "STRING NOT NULL", "Fingerprint of the mapping and settings."),
        Column("reprocessed_up_to", "MAP<STRING, BIGINT>", "Last reprocessed batch by epoch; null for sources."),
        Column("reprocessed_rules", "ARRAY<STRING>", "Rules whose rows were reprocessed; null: all."),
        Column(
            "measures", f"MAP<STRING, STRUCT<{_TREND}>>",
            "By measure: the value of the batch, and the decayed mean and spread for alarms after it.",
        ),
    ),
    key=("source", "epoch", "batch_id", "kind"),
    schema_version=2,
)  # fmt: skip

CAPTURE_ALARMS = Table(
    name="capture_alarms",
    meaning="One row per measure of a batch that differs from earlier batches by more than the limit.",
    writer="capture_events",
    columns=(
        _SOURCE,
        EPOCH,
        BATCH_ID,
        _INGEST_TIME,
        Column("event_time_max", "TIMESTAMP", "Newest event time of the batch; null without clean records.", "UTC"),
        Column("measure", "STRING NOT NULL", "Name of the measure, such as volume or null_user_id."),
        Column("value", "DOUBLE NOT NULL", "Value of the batch.", "unit of the measure"),
        Column("expected", "DOUBLE NOT NULL", "Decayed mean of earlier batches.", "unit of the measure"),
        Column("deviations", "DOUBLE NOT NULL", "Distance from the expected value.", "standard deviations"),
        Column("action", "STRING NOT NULL", "`warn` or `stop`, from the settings."),
        Column("message", "STRING NOT NULL", "The alarm in words."),
    ),
    key=("source", "epoch", "batch_id", "measure"),
)

CAPTURE_GAPS = Table(
    name="capture_gaps",
    meaning="One row per range of records of a source that capture did not read, because they are no longer available.",
    writer="capture_events",
    columns=(
        _SOURCE,
        Column("topic", "STRING NOT NULL", "Name of the topic."),
        Column("partition", "INT NOT NULL", "Partition of the topic."),
        Column("first_offset", "BIGINT NOT NULL", "First missing offset."),
        Column("last_offset", "BIGINT", "Last missing offset; null if it is unknown."),
        Column(
            "reason",
            "STRING NOT NULL",
            "`retention`: the broker deleted the records. `recreated`: the topic was created again, or lost its last "
            "records. `removed`: the settings or the topic no longer contain the partition.",
        ),
        Column(
            "action", "STRING NOT NULL", "`refused`: the run did not start. `accepted`: it continued after the gap."
        ),
        Column("found_at", "TIMESTAMP NOT NULL", "When the gap was found.", "UTC"),
        Column("epoch", "STRING NOT NULL", "UUID of the checkpoint that contains the offset before the gap."),
    ),
    key=("source", "epoch", "topic", "partition", "first_offset", "action"),
)

CAPTURE_SEQUENCES = Table(
    name="capture_sequences",
    meaning="One row per producer and range of consecutive sequence numbers in a batch, if the mapping has an audit.",
    writer="capture_events",
    columns=(
        _SOURCE,
        EPOCH,
        BATCH_ID,
        Column("producer", "STRING NOT NULL", "The producer, by the mapping.", subject=RAW_PAYLOAD),
        Column("first_sequence", "BIGINT NOT NULL", "First sequence number of the range."),
        Column("last_sequence", "BIGINT NOT NULL", "Last sequence number of the range."),
    ),
    key=("source", "epoch", "batch_id", "producer", "first_sequence"),
)

SESSIONS = Table(
    name="sessions",
    meaning="One row per session of a user, updated when late events change it.",
    writer="derive_sessions",
    columns=(
        USER_ID,
        Column("session_start", "TIMESTAMP NOT NULL", "Time of the first event.", "UTC"),
        Column("session_end", "TIMESTAMP NOT NULL", "Time of the last event.", "UTC"),
        Column(
            "session_id", "STRING NOT NULL", "Session id of the log; empty for sessions split by the gap.", subject=USER
        ),
        Column("events", "BIGINT NOT NULL", "Events of the session.", "events"),
        Column("types", "MAP<STRING, BIGINT> NOT NULL", "Events by type.", "events"),
        Column("value", "DOUBLE NOT NULL", "Value of the purchases.", "currency"),
        Column("items", "BIGINT NOT NULL", "Distinct items.", "items"),
        Column("entry_category", "STRING", "First category; null when no event has one."),
        Column("exit_category", "STRING", "Last category; null when no event has one."),
        Column("device", "STRING", "Device of the first event that has one."),
        Column("is_bounce", "BOOLEAN NOT NULL", "Whether the session has one event."),
        Column("is_converted", "BOOLEAN NOT NULL", "Whether the session has a purchase."),
        Column(
            "transitions",
            "ARRAY<STRUCT<level: STRING, from_state: STRING, to_state: STRING, count: BIGINT>> NOT NULL",
            "Consecutive states with their counts, by level: event type or category.",
        ),
        Column("span_start", "TIMESTAMP NOT NULL", "Start of the session span, which is computed as one unit.", "UTC"),
        Column("span_end", "TIMESTAMP NOT NULL", "End of the session span.", "UTC"),
        EPOCH,
        BATCH_ID,
    ),
    key=("user_id", "session_start"),
    schema_version=2,
    properties={**_FOLLOWED, "delta.dataSkippingStatsColumns": "session_start,span_start,span_end"},
)

_USER_SIDE = Subject("user", where="side = 'user'")

FACTORS = Table(
    name="factors",
    meaning="One row per user, one per item and one global row: the state of the matrix factorization.",
    writer="learn_factors",
    columns=(
        Column("side", "STRING NOT NULL", "`user`, `item` or `global`."),
        Column("key", "STRING NOT NULL", "User id, item id, or `all`.", subject=_USER_SIDE),
        Column("vector", "BINARY", "The vector, k little-endian float32 (explicit: with the bias last); null: global."),
        Column(
            "item_ids", "ARRAY<STRING>",
            "User: items of the stored events. Item: its neighbors, most frequent first.",
        ),
        Column("item_weights", "BINARY", "Weights of `item_ids`, float32; decayed counts for neighbors."),
        Column("event_times", "BINARY", "Times of the stored events; item: of its newest event. int64 microseconds."),
        Column("event_ratings", "BINARY", "User, explicit mode: ratings of the stored events, float32."),
        Column("tail_weight", "DOUBLE", "User: weight of the events that are no longer stored."),
        Column("normal_equations", "BINARY", "Item: its normal equations, float32."),
        Column("decayed_weight", "DOUBLE", "Item: decayed weight of its events."),
        Column("popularity", "DOUBLE", "Item: count of its events, decayed by popularity_half_life_days."),
        Column("category", "STRING", "Item: category of its newest event that has one."),
        Column("global_sums", "BINARY", "Global row: Gram matrices, item mean and counts, float64."),
        as_of("Newest event time of the user; for an item or the global row, of the batch that last wrote it."),
        EPOCH,
        BATCH_ID,
    ),
    key=("side", "key"),
    partitioned_by=("side",),
    properties={**UPDATABLE, "delta.dataSkippingStatsColumns": "key"},
)  # fmt: skip

USER_SEGMENTS = Table(
    name="user_segments",
    meaning="One row per user with a profile vector: the segment of the user.",
    writer="learn_segments",
    columns=(
        USER_ID,
        Column("segment_id", "BIGINT NOT NULL", "Segment of the user; ids are never used again."),
        Column(
            "distance", "DOUBLE NOT NULL", "Distance to the center when the row was written.", "standard deviations"
        ),
        Column("point", "ARRAY<DOUBLE> NOT NULL", "The scaled profile vector.", "standard deviations"),
        as_of("Newest event time of the user's profile."),
        Column("valid_from", "TIMESTAMP NOT NULL", "Event time from which the user is in the segment.", "UTC"),
        EPOCH,
        BATCH_ID,
    ),
    key=("user_id",),
    properties=UPDATABLE,
)

SEGMENTS = Table(
    name="segments",
    meaning="One row per segment and batch; the rows of the last batch are the model.",
    writer="learn_segments",
    columns=(
        Column("segment_id", "BIGINT NOT NULL", "Id of the segment; ids are never used again."),
        Column("users", "BIGINT NOT NULL", "Users in the segment.", "users"),
        Column("weight", "DOUBLE NOT NULL", "Sum of the decayed weights of its users."),
        Column("sums", "ARRAY<DOUBLE> NOT NULL", "Weighted sum of the points x of its users."),
        Column("scatter", "ARRAY<DOUBLE> NOT NULL", "Weighted sum of x xT over the points x of its users, row by row."),
        Column("center", "MAP<STRING, DOUBLE> NOT NULL", "Cluster center by dimension.", "standard deviations"),
        Column("location", "MAP<STRING, DOUBLE> NOT NULL", "Mean of the users of the first batch, by dimension."),
        Column(
            "scale",
            "MAP<STRING, DOUBLE> NOT NULL",
            "Standard deviation of the users of the first batch, divided by the weight of the dimension.",
        ),
        Column("cost", "DOUBLE NOT NULL", "Mean squared distance of its users to the center.", "variances"),
        Column("parent_id", "BIGINT", "Segment that it was split from in this batch; null without a split."),
        Column("merged_ids", "ARRAY<BIGINT> NOT NULL", "Segments that were merged into it in this batch."),
        Column("next_id", "BIGINT NOT NULL", "Smallest id that no segment has had."),
        as_of("Newest event time of the users' profiles."),
        EPOCH,
        BATCH_ID,
    ),
    key=("epoch", "batch_id", "segment_id"),
    properties={"delta.dataSkippingStatsColumns": "batch_id"},
)

SEGMENT_DESCRIPTIONS = Table(
    name="segment_descriptions",
    meaning="One row per segment of the last batch: the segment in words.",
    writer="learn_segments",
    retention="replaced by each run",
    columns=(
        Column("segment_id", "BIGINT NOT NULL", "Id of the segment."),
        Column("description", "STRING NOT NULL", "Its most distinguishing dimensions in words."),
        Column(
            "rule",
            "STRING NOT NULL",
            "Its path in a decision tree, as a condition; empty if it is the largest segment in no leaf.",
        ),
        Column(
            "precision",
            "DOUBLE",
            "Share of the users on the path that are in the segment; null without a path.",
            "share",
        ),
        Column("recall", "DOUBLE", "Share of the segment's users that are on the path; null without a path.", "share"),
        Column("users", "BIGINT NOT NULL", "Users in the segment.", "users"),
        Column("share", "DOUBLE NOT NULL", "Share of all users.", "share"),
        Column("tree", "STRING NOT NULL", "The decision tree of all segments as JSON."),
        as_of("Newest event time of the model."),
        EPOCH,
        BATCH_ID,
    ),
    key=("segment_id",),
)

BASKET_COUNTS = Table(
    name="basket_counts",
    meaning="One row per user and one per item: decayed counts of the items in baskets; and one row with the blend.",
    writer="learn_rankers",
    columns=(
        Column("side", "STRING NOT NULL", "`user`, `item` or `blend`."),
        Column("key", "STRING NOT NULL", "User id or item id; `all` for the blend.", subject=_USER_SIDE),
        Column("item_ids", "ARRAY<STRING> NOT NULL", "User: items of all events. Item: items of the next baskets."),
        Column("counts", "ARRAY<DOUBLE> NOT NULL", "Decayed count of each of `item_ids`, the largest first."),
        Column("basket_items", "ARRAY<STRING>", "User: items of the latest basket, which ended at `as_of`."),
        Column("previous_items", "ARRAY<STRING>", "User: items of the basket before it."),
        Column("recent_items", "ARRAY<STRING>", "User: items of the last ten events of the latest basket, in order."),
        Column(
            "item_baskets",
            "ARRAY<BIGINT>",
            "User: number of baskets with each of `item_ids`; baskets of late events are not counted.",
        ),
        Column("first_times", "ARRAY<TIMESTAMP>", "User: time of the first event of each of `item_ids`."),
        Column("last_times", "ARRAY<TIMESTAMP>", "User: time of the last event of each of `item_ids`."),
        Column("popularity", "DOUBLE", "Item: count of its events, decayed by popularity_half_life_days."),
        Column("rule_items", "ARRAY<STRING>", "Item: items of later events of the same baskets."),
        Column("rule_counts", "ARRAY<DOUBLE>", "Item: decayed count of each of `rule_items`, the largest first."),
        Column("blend_weights", "ARRAY<DOUBLE>", "Blend: weight of each input, in the order of docs/learners.md."),
        Column(
            "blend_sums",
            "ARRAY<DOUBLE>",
            "Blend: decayed sums of the weights and of the gate, in the order of docs/learners.md.",
        ),
        as_of(),
        EPOCH,
        BATCH_ID,
    ),
    key=("side", "key"),
    properties=UPDATABLE,
    schema_version=4,
)

DEMAND_UNITS = Table(
    name="demand_units",
    meaning="One row per item and one per category: units sold by week or day; and one row with all events by day.",
    writer="learn_demand",
    columns=(
        Column("level", "STRING NOT NULL", "`item`, `category` or `all`."),
        Column("key", "STRING NOT NULL", "Item id or category; empty for `all`."),
        Column(
            "days", "ARRAY<DATE> NOT NULL", "Item: Mondays of weeks. Otherwise days. In UTC, only those with sales."
        ),
        Column("units", "ARRAY<DOUBLE> NOT NULL", "Units sold in each of them; number of events for `all`.", "pieces"),
        as_of("Newest event time merged into the row."),
        EPOCH,
        BATCH_ID,
    ),
    key=("level", "key"),
    properties=UPDATABLE,
)

DEMAND_FORECASTS = Table(
    name="demand_forecasts",
    meaning="Forecast units: one row per item for the next week, and one per category and day for the next 7 days.",
    writer="learn_demand",
    columns=(
        Column("level", "STRING NOT NULL", "`item` or `category`."),
        Column("key", "STRING NOT NULL", "Item id or category."),
        Column("ahead", "INT NOT NULL", "Weeks (item) or days (category) after the last complete one.", "periods"),
        Column("day", "DATE NOT NULL", "Monday of the week, or the day, that is forecast, in UTC."),
        Column("units", "DOUBLE NOT NULL", "Forecast units.", "pieces"),
        Column(
            "error",
            "DOUBLE",
            "Sum of the absolute errors of forecasts of similar size one period ahead in the last `error_days`, "
            "divided by the sum of the units; of all sizes if none is similar, null without any.",
            "ratio",
        ),
        as_of("Newest event time of the state that the forecast was computed from."),
        EPOCH,
        BATCH_ID,
    ),
    key=("level", "key", "ahead"),
    properties=UPDATABLE,
)

OUTCOME_EXAMPLES = Table(
    name="outcome_examples",
    meaning="One row per horizon, user and time whose labels have matured; it never changes.",
    writer="learn_outcome_examples",
    columns=(
        Column(
            "horizon_days",
            "INT NOT NULL",
            "Labels are computed from the events of this many days from `at` on.",
            "days",
        ),
        USER_ID,
        Column("at", "TIMESTAMP NOT NULL", "The time t: features use events before it, labels from it on.", "UTC"),
        Column("matures_at", "TIMESTAMP NOT NULL", "`at` plus horizon and label_grace_days.", "UTC"),
        Column("features", "ARRAY<DOUBLE> NOT NULL", "Values of the declared features, in order; null: unknown."),
        Column("labels", "MAP<STRING, DOUBLE> NOT NULL", "By outcome; users outside of its population have none."),
        Column("feature_names", "STRING NOT NULL", "Names of the features, separated by commas."),
        EPOCH,
        BATCH_ID,
    ),
    key=("horizon_days", "user_id", "at"),
)

OUTCOME_MODELS = Table(
    name="outcome_models",
    meaning="One row per outcome and version of its model.",
    writer="learn_outcomes",
    columns=(
        Column("outcome", "STRING NOT NULL", "Name of the outcome."),
        Column("identity", "STRING NOT NULL", "Fingerprint of horizon, loss and rule; others are separate models."),
        Column(
            "valid_from", "TIMESTAMP NOT NULL", "Maturity time of the last rows that the version has learned.", "UTC"
        ),
        Column("names", "ARRAY<STRING> NOT NULL", "Columns of the inputs; the first one is the intercept."),
        Column("coefficients", "ARRAY<DOUBLE> NOT NULL", "Coefficient of each column."),
        Column("means", "ARRAY<DOUBLE> NOT NULL", "Decayed mean of each column."),
        Column(
            "scales", "ARRAY<DOUBLE> NOT NULL", "Decayed standard deviation of each column; 0: the column is not used."
        ),
        Column("applies", "BIGINT NOT NULL", "Number of batches of rows that the model has learned."),
        Column("is_started", "BOOLEAN NOT NULL", "Whether the version has coefficients."),
        Column("label_unit", "DOUBLE NOT NULL", "Amounts are measured in this unit."),
        Column("label_cap", "DOUBLE", "Amounts that are learned next are at most this; null: no limit."),
        Column("learned_coefficients", "ARRAY<DOUBLE> NOT NULL", "Coefficients with which the last rows were learned."),
        Column("learned_means", "ARRAY<DOUBLE> NOT NULL", "Means with which the last rows were learned."),
        Column("learned_scales", "ARRAY<DOUBLE> NOT NULL", "Scales with which the last rows were learned."),
        Column("learned_unit", "DOUBLE NOT NULL", "Unit with which the last rows were learned."),
        Column("learned_cap", "DOUBLE", "Cap with which the last rows were learned; null: none."),
        Column("problem", "STRING NOT NULL", "Why the last rows have not changed the coefficients; else empty."),
        Column("uses_curve", "BOOLEAN", "Whether probabilities are those of the calibration curve; null: no."),
        Column("curve_logits", "ARRAY<DOUBLE>", "Calibration curve: logits of the model; null without one."),
        Column("curve_probabilities", "ARRAY<DOUBLE>", "Calibration curve: probability at each logit."),
        Column("rows", "DOUBLE", "Decayed number of rows; this and the next columns only in the last version.", "rows"),
        Column("label_total", "DOUBLE", "Decayed sum of the labels."),
        Column("label_counts", "ARRAY<DOUBLE>", "Decayed numbers of rows by bin of the amount."),
        Column("inputs_total", "ARRAY<DOUBLE>", "Decayed sum of each column."),
        Column("inputs_squares", "ARRAY<DOUBLE>", "Decayed sum of squares of each column."),
        Column("rule_sums", "ARRAY<DOUBLE>", "Newton: decayed sums A (upper triangle) and b."),
        Column("memory", "ARRAY<DOUBLE>", "Accumulators of a first-order rule."),
        Column(
            "calibration_sums",
            "ARRAY<DOUBLE>",
            "Decayed numbers of rows, sums of labels and of predictions by bin of the logit; null: no calibration.",
        ),
        Column(
            "calibration_losses",
            "ARRAY<DOUBLE>",
            "Three numbers per time of rows in the last 56 days: the time in microseconds, and the sums of the log "
            "loss without and with the curve.",
        ),
        as_of("Newest `at` of the learned rows; decayed sums are valid at this time."),
        EPOCH,
        BATCH_ID,
    ),
    key=("outcome", "identity", "valid_from"),
    properties=UPDATABLE,
)

BATCH_MODELS = Table(
    name="batch_models",
    meaning="One row per outcome, kind and version of a batch model, and the comparison of earlier versions with the "
    "linear model. It never changes.",
    writer="learn_batch_models",
    columns=(
        Column("outcome", "STRING NOT NULL", "Name of the outcome."),
        Column("kind", "STRING NOT NULL", "`boosting` or `mlp`."),
        Column("identity", "STRING NOT NULL", "Fingerprint of outcome and features; others are separate models."),
        Column("valid_from", "TIMESTAMP NOT NULL", "Maturity time of the newest rows that it has learned.", "UTC"),
        Column("rows", "BIGINT NOT NULL", "Number of rows that it has learned.", "rows"),
        as_of("Newest `at` of the learned rows."),
        Column("library", "STRING NOT NULL", "Name and version of the library that has fitted it."),
        Column("problem", "STRING NOT NULL", "Why there is no model; else empty."),
        Column("model", "BINARY", "Trees or weights as arrays, a .npz file; null: there is none."),
        Column(
            "evaluated_rows", "BIGINT NOT NULL",
            "Rows that matured since the version before, and that an earlier version and the linear model have scored.",
            "rows",
        ),
        Column("losses", "ARRAY<DOUBLE> NOT NULL", "Sum of the losses of these rows in each of 200 groups of users."),
        Column("linear_losses", "ARRAY<DOUBLE> NOT NULL", "The same of the linear model."),
        Column("metrics", "MAP<STRING, DOUBLE> NOT NULL", "Metrics of these rows, with names as in `model_metrics`."),
        Column("linear_metrics", "MAP<STRING, DOUBLE> NOT NULL", "The same of the linear model."),
        Column(
            "improvement", "DOUBLE",
            "Share by which the losses are lower than those of the linear model, over the evaluations of 182 days; "
            "null: there are none.",
        ),
        Column("improvement_low", "DOUBLE", "Lower end of its 90 % interval over users."),
        Column("improvement_high", "DOUBLE", "Upper end of its 90 % interval over users."),
        Column("is_better", "BOOLEAN NOT NULL", "Whether serve_outcomes may use it instead of the linear model."),
    ),
    key=("outcome", "kind", "identity", "valid_from"),
)  # fmt: skip

MODEL_METRICS = Table(
    name="model_metrics",
    meaning="One row per metric of a model in a batch, evaluated before the batch was learned.",
    writer="learn_factors, learn_segments, learn_rankers, learn_demand, learn_outcomes",
    columns=(
        Column("learner", "STRING NOT NULL", "Name of the learner, such as `factors`."),
        EPOCH,
        BATCH_ID,
        Column(
            "model", "STRING NOT NULL", "The ranker (blend, factors, ...) or model (kmeans, mean); `all` for late_rows."
        ),
        Column("metric", "STRING NOT NULL", "Name of the metric; learn/metrics.py declares unit and direction."),
        Column("value", "DOUBLE NOT NULL", "Mean of the metric over the evaluated rows.", "unit of the metric"),
        Column("weight", "DOUBLE NOT NULL", "Number of users, ratings or profile vectors in the mean."),
        Column(
            "state_as_of", "TIMESTAMP", "Newest event time of the state that was evaluated; before `rows_from`.", "UTC"
        ),
        Column("rows_from", "TIMESTAMP", "Oldest event time of the evaluated rows; null without any.", "UTC"),
        Column("rows_to", "TIMESTAMP", "Newest event time of the evaluated rows; null without any.", "UTC"),
    ),
    key=("learner", "epoch", "batch_id", "model", "metric"),
)

USER_GROUPS = Table(
    name="user_groups",
    meaning="One row per user: RFM quintiles and segment, loyalty tier and cohort.",
    writer="serve_tags",
    columns=(
        USER_ID,
        Column("recency_days", "DOUBLE", "Days since the last purchase; null without one.", "days"),
        Column("frequency", "DOUBLE", "Number of orders; a purchase without an order id is an order.", "orders"),
        Column("monetary", "DOUBLE", "Value bought less value returned; null when no event has a value.", "currency"),
        Column(
            "recency_quintile", "INT", "Quintile of the buyers by recency, 5 is most recent; null without a purchase."
        ),
        Column("frequency_quintile", "INT", "Quintile by frequency, 5 is most frequent; null without a purchase."),
        Column("monetary_quintile", "INT", "Quintile by monetary value, 5 is highest; null without a value."),
        Column("rfm_segment", "STRING", "Name of the first RFM condition that is true; null without a purchase."),
        Column("loyalty_tier", "STRING", "Loyalty tier; null below the lowest."),
        Column(
            "loyalty_tier_from",
            "TIMESTAMP",
            "Event time at which the user entered the tier; null without a tier.",
            "UTC",
        ),
        Column(
            "loyalty_tier_after", "TIMESTAMP",
            "The user entered the tier after this time; null: no earlier run shows since when the user has it.", "UTC",
        ),
        Column("cohort", "STRING", "Month of the first event in the shop's time zone, as yyyy-MM."),
        as_of("Newest event time of the run that wrote the row."),
    ),
    key=("user_id",),
    schema_version=2,
    properties=_FOLLOWED,
)  # fmt: skip

USER_TAGS = Table(
    name="user_tags",
    meaning="One row per interval in which a user has a tag.",
    writer="serve_tags",
    columns=(
        USER_ID,
        Column("tag", "STRING NOT NULL", "Name of the tag."),
        Column(
            "valid_from", "TIMESTAMP NOT NULL",
            "`starts_at` of the rule, or newest event time of the run that assigned the tag.", "UTC",
        ),
        Column(
            "gained_after", "TIMESTAMP",
            "The user gained the tag after this time, or at it if it equals `valid_from`; null: no earlier run shows "
            "since when the user has it.", "UTC",
        ),
        Column("valid_to", "TIMESTAMP", "When the tag ended; null while the user has it.", "UTC"),
        Column("end_reason", "STRING", "`lost`, `expired` or `expired_reset`; null while the user has the tag."),
        Column("evidence", "STRING", "Why the user has the tag, in words.", subject=FREE_TEXT),
        Column("rule_version", "STRING NOT NULL", "Fingerprint of the tag's rule."),
        as_of("Newest event time of the run that wrote the row."),
    ),
    key=("user_id", "tag", "valid_from"),
    schema_version=2,
    properties=_FOLLOWED,
)  # fmt: skip

RECOMMENDATIONS = Table(
    name="recommendations",
    meaning="One row per user, purpose and rank: the recommended items.",
    writer="serve_scores",
    retention="replaced by each run",
    columns=(
        USER_ID,
        Column("purpose", "STRING NOT NULL", "`for_you`, `buy_again`, `next_basket` or `next_in_session`."),
        Column("rank", "INT NOT NULL", "Position in the list, from 1."),
        Column("item_id", "STRING NOT NULL", "The recommended item."),
        Column("score", "DOUBLE NOT NULL", "Score of the ranker; comparable within a list only."),
        Column("ranker", "STRING NOT NULL", "Ranker that gave the score."),
        Column("reason_item_id", "STRING", "Item of the user that the reason names; null without one."),
        Column("reason", "STRING NOT NULL", "Why the item is recommended, in words."),
        Column("reason_ranker", "STRING", "Ranker that placed the item in the list; the reason names it."),
        Column("model_version", "STRING NOT NULL", "Version of the factors, or of `basket_counts`, that was used."),
        Column("profile_version", "BIGINT", "Delta version of the profile table that was used; null: none."),
        as_of("Newest event time of the model."),
    ),
    key=("user_id", "purpose", "rank"),
    properties=UPDATABLE,
    schema_version=3,
)

USER_SCORES = Table(
    name="user_scores",
    meaning="One row per user and outcome: what the user is expected to do, with reasons.",
    writer="serve_outcomes",
    retention="replaced by each run",
    columns=(
        USER_ID,
        Column("outcome", "STRING NOT NULL", "Name of the outcome."),
        Column(
            "score",
            "DOUBLE NOT NULL",
            "Logit or margin of the model; of an amount: the predicted amount; of a customer value: that of "
            "`value_days`.",
        ),
        Column("probability", "DOUBLE", "Probability of the outcome, 0 to 1; null for amounts and margins."),
        Column(
            "reasons",
            "ARRAY<STRUCT<feature: STRING, value: DOUBLE, contribution: DOUBLE, text: STRING>> NOT NULL",
            "The features that move the score most, at most `max_reasons`; a contribution is the difference from a "
            "row with the means of all inputs, as a logit or margin, or in the logarithm of an amount.",
        ),
        Column(
            "model_valid_from",
            "TIMESTAMP NOT NULL",
            "Version of the model: `valid_from` in `outcome_models` or in `batch_models`; 1970-01-01: there is no "
            "model yet, and the score is from the mean of all users.",
            "UTC",
        ),
        Column("models_version", "BIGINT NOT NULL", "Delta version of `outcome_models` with the linear model."),
        Column("model_version", "BIGINT", "Version of the registered model that is the champion; null: none is."),
        Column("events_version", "BIGINT NOT NULL", "Delta version of `events` that was read."),
        as_of("Newest event time: features use the events until then."),
        Column(
            "model_kind", "STRING",
            "`linear`, or the kind of the batch model that score and probability are from; reasons are always from the "
            "linear model.",
        ),
    ),
    key=("user_id", "outcome"),
    schema_version=2,
)  # fmt: skip

UNUSUAL_ACTIVITY = Table(
    name="unusual_activity",
    meaning="One row per user and unusual day among the last `report_days` days, with reasons.",
    writer="serve_anomalies",
    retention="replaced by each run",
    columns=(
        USER_ID,
        Column("day", "DATE NOT NULL", "The day, in the time zone of the shop."),
        Column(
            "score",
            "DOUBLE NOT NULL",
            "Sum over the measures of -log(share of days with such a deviation / 5 %), if positive.",
        ),
        Column(
            "share_of_days", "DOUBLE NOT NULL", "Estimated share of the days of all users with at least this score."
        ),
        Column(
            "reasons",
            "ARRAY<STRUCT<measure: STRING, observed: DOUBLE, expected: DOUBLE, z: DOUBLE, text: STRING>> NOT NULL",
            "The measures that add most to the score, at most three; z: deviation from the earlier days of the user "
            "in their standard deviations.",
        ),
        Column("events_version", "BIGINT NOT NULL", "Delta version of `events` that was read."),
        as_of("Newest event time, without events that are far from all others; later events are not used."),
    ),
    key=("user_id", "day"),
)

ITEMS = Table(
    name="items",
    meaning="One row per item: what it is and how it sells.",
    writer="serve_tables",
    columns=(
        Column("item_id", "STRING NOT NULL", "The item, as `namespace:id`."),
        Column("name", "STRING", "Latest `text` of the item, unchanged; null: it has none.", subject=FREE_TEXT),
        Column("category", "STRING", "Latest category; levels are separated by a dot; null: it has none."),
        Column("brand", "STRING", "Latest brand; null: it has none."),
        Column("price", "DOUBLE", "Latest price of one piece; null: it has none.", "currency"),
        Column("currency", "STRING", "ISO code of the currency of the latest price; null: the log has none."),
        Column("buyers", "BIGINT NOT NULL", "Number of different users who bought it.", "users"),
        *(
            Column(f"units_{name}", "DOUBLE NOT NULL", f"Pieces sold{period}; returns are not subtracted.", "pieces")
            for name, period in _SALES_PERIODS.items()
        ),
        *(
            Column(
                f"revenue_{name}", "DOUBLE",
                f"Value of purchases{period}; returns are not subtracted; null: no purchase of it has a value.",
                "currency",
            )
            for name, period in _SALES_PERIODS.items()
        ),
        Column(
            "trend", "DOUBLE",
            "Pieces sold in the last 28 days, divided by those of the 28 days before; 1: unchanged; null: none were "
            "sold in the 28 days before.",
        ),
        Column("return_rate", "DOUBLE", "Pieces returned by pieces sold; null: none were sold.", "share"),
        Column(
            "goes_with", "ARRAY<STRING>",
            "Names of the items that most often follow it in the same basket, at most 5, best first; the id of an item "
            "without a name. Null: `learn_rankers` is off or has not run.", subject=NAMES,
        ),
        Column("first_sold", "TIMESTAMP", "Time of the first purchase; null: it was never bought.", "UTC"),
        Column("last_sold", "TIMESTAMP", "Time of the latest purchase; null: it was never bought.", "UTC"),
        as_of("Newest event time of the run that wrote the row; the other values have not changed since."),
    ),
    key=("item_id",),
    properties=UPDATABLE,
)  # fmt: skip

AUDIENCE_USERS = Table(
    name="audience_users",
    meaning="One row per audience and user whom `serve_audience` exported and who may be at the receiver.",
    writer="serve_audience",
    retention="until the user leaves the audience, or the data of the person is erased",
    columns=(
        Column("audience", "STRING NOT NULL", "Name of the audience."),
        USER_ID,
        Column(
            "is_delivered", "BOOLEAN NOT NULL",
            "Whether an export that ended has added the user; false during an export, and after one that failed: the "
            "receiver may have the user or not.",
        ),
    ),
    key=("audience", "user_id"),
    properties=UPDATABLE,
)  # fmt: skip

STAGE_BATCHES = Table(
    name="stage_batches",
    meaning="One row per micro-batch of any stage, with its duration, lag and cost; not exactly once.",
    writer="every stage",
    columns=(
        Column("stage", "STRING NOT NULL", "Name of the stage."),
        Column("source", "STRING NOT NULL", "Name of the source; empty for stages that read tables."),
        EPOCH,
        BATCH_ID,
        Column("started_at", "TIMESTAMP NOT NULL", "When the trigger started.", "UTC"),
        Column("rows_in", "BIGINT NOT NULL", "Rows read.", "rows"),
        Column("lag_files", "BIGINT", "Input files that the run has not read yet; null for tables.", "files"),
        Column("seconds", "DOUBLE NOT NULL", "Duration of the trigger.", "seconds"),
        Column(
            "seconds_by_phase",
            "MAP<STRING, DOUBLE> NOT NULL",
            "Duration by phase, of Spark and of the batch.",
            "seconds",
        ),
        Column(
            "event_time_max", "TIMESTAMP",
            "Newest event time of the rows: of the clean rows of capture, or of the files of `events` that the batch "
            "read, up to 1 ms later. Null for other sources, and within the initial snapshot.",
            "UTC",
        ),
        Column(
            "lag_rows", "BIGINT",
            "Rows of the source that were committed before the end of the batch and not read by it; null if unknown: "
            "for files (lag_files), change feeds with unread commits, and within the initial snapshot.",
            "rows",
        ),
        Column(
            "lag_seconds", "DOUBLE",
            "Time from the oldest commit of the source table that the batch has not read to the end of the batch; 0 if "
            "it has read all. Null for logs.",
            "seconds",
        ),
        Column(
            "commit_seconds", "DOUBLE",
            "Duration of the phases that write tables, added up; of a batch that Spark processes also the computation "
            "of the rows.",
            "seconds",
        ),
        Column("bytes_written", "BIGINT", "Size of the data files and change files that the batch added.", "bytes"),
        Column(
            "cpu_seconds", "DOUBLE",
            "CPU time of Python, the JVM of the driver and, in local mode, the Python workers during the batch. "
            "Batches that run at the same time share it equally. Null if the operating system does not report it.",
            "seconds",
        ),
    ),
    key=("stage", "source", "epoch", "batch_id"),
    schema_version=2,
)  # fmt: skip

ALL = (
    EVENTS, REJECTED_EVENTS, CAPTURE_BATCHES, CAPTURE_ALARMS, CAPTURE_GAPS, CAPTURE_SEQUENCES, SESSIONS, FACTORS,
    USER_SEGMENTS, SEGMENTS, SEGMENT_DESCRIPTIONS, BASKET_COUNTS, DEMAND_UNITS, DEMAND_FORECASTS, OUTCOME_EXAMPLES,
    OUTCOME_MODELS, BATCH_MODELS, MODEL_METRICS, USER_GROUPS, USER_TAGS, RECOMMENDATIONS, USER_SCORES,
    UNUSUAL_ACTIVITY, ITEMS, AUDIENCE_USERS, STAGE_BATCHES,
)  # fmt: skip
# Names of tables whose columns depend on the settings; the stages that write them declare the columns.
RESERVED_NAMES = frozenset(table.name for table in ALL) | {
    "event_transitions", "user_transitions", "user_features", "training_examples", "published_factors",
    "published_segments", "published_basket_counts", "published_outcome_models", "users",
}  # fmt: skip
