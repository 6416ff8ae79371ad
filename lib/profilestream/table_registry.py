"""Every table of a warehouse in flow order, with its readers. Status, documentation and tests use this list."""

from profilestream.base import tables
from profilestream.base.delta_table import Table
from profilestream.base.settings import Settings
from profilestream.derive import feature_declaration, fold_stage, profiles, sessions, transitions, user_features
from profilestream.derive.feature_declaration import DeclaredFeatures
from profilestream.learn import learners
from profilestream.learn.examples import training_examples
from profilestream.serve.plain_tables import users_table


def registry(settings: Settings) -> list[Table]:
    """All tables that can exist with these settings, in flow order; their stages may be enabled or not.

    Tables are left out when the settings do not declare their columns: features of users without a file of window
    features, training examples without a file of labels, segments without a profile vector.

    Raises:
        BadSettings: a declaration is invalid.
    """
    captured = [tables.EVENTS, tables.REJECTED_EVENTS, tables.CAPTURE_BATCHES]
    captured += [tables.CAPTURE_ALARMS, tables.CAPTURE_GAPS, tables.CAPTURE_SEQUENCES]
    declared = [table for derived in fold_stage.declared_tables(settings).values() for table in derived.tables]
    derived = [sessions.table(settings), *transitions.tables(settings)]
    if settings.derive.windows.file:
        derived.append(user_features.table(settings))
    specs = [learner(settings) for learner in learners.LEARNERS]
    learned = [table for spec in specs if spec.has_input for table in spec.all_tables]
    learned.append(tables.MODEL_METRICS)
    if settings.learn.outcomes.file:
        learned += [tables.OUTCOME_EXAMPLES, tables.BATCH_MODELS]
    if settings.learn.examples.file:
        learned.append(training_examples.table(settings))
    served = [tables.USER_GROUPS, tables.USER_TAGS, tables.RECOMMENDATIONS, tables.USER_SCORES, tables.UNUSUAL_ACTIVITY]
    served += [users_table.table(settings), tables.ITEMS, tables.AUDIENCE_USERS]
    return [*captured, *declared, *derived, *learned, *served, tables.STAGE_BATCHES]


def readers(settings: Settings) -> dict[str, list[str]]:
    """The jobs that read each table, by table name, in flow order of the jobs; steward_status reads all tables."""
    by_table: dict[str, list[str]] = {}
    for job, names in _reads(settings).items():
        for name in names:
            by_table.setdefault(name, []).append(job)
    return by_table


def _reads(settings: Settings) -> dict[str, list[str]]:
    """The tables that each job reads, by name."""
    derived = fold_stage.declared_tables(settings).values()
    profile = profiles.find_profile_table(settings)
    profile_tables = [] if profile is None else [table.name for table in profile.tables]
    tiles = [tile.table.name for tile in derived if "hour" in tile.table.key]
    features = feature_declaration.declared_features(settings)
    user_tiles, customer_tiles = _tiles(features, "user"), _tiles(features, "customer")
    factors_tables, segments_tables = ["factors", "published_factors"], ["user_segments", "segments"]
    return {
        "capture_events": ["events", "capture_batches"],
        "capture_reprocess": ["events", "rejected_events", "capture_batches"],
        "derive_features": ["events"],
        "derive_profiles": ["events", *profile_tables],
        "derive_sessions": ["events", "sessions"],
        "derive_transitions": ["sessions"],
        "derive_windows": ["events", *user_tiles, "user_features"],
        "learn_factors": ["events", "factors"],
        "learn_segments": [*profile_tables, *segments_tables],
        "learn_rankers": ["events", "basket_counts"],
        "learn_demand": ["events", "demand_units"],
        "learn_outcome_examples": ["events", *customer_tiles, "outcome_examples"],
        "learn_outcomes": ["outcome_examples", "outcome_models"],
        "learn_batch_models": ["outcome_examples", "outcome_models", "batch_models"],
        "learn_examples": ["events", *user_tiles, "training_examples"],
        "learn_publish": [
            "factors", "segments", "basket_counts", "outcome_models", "outcome_examples", "batch_models",
            "model_metrics", "events",
        ],
        "serve_campaign": ["events"],
        "serve_report": [
            "events", "rejected_events", "capture_batches", "capture_alarms", *profile_tables, *segments_tables,
            "segment_descriptions", "model_metrics", "user_groups", "user_tags", "stage_batches", "outcome_models",
            "outcome_examples", "user_scores", "demand_units", "demand_forecasts", "unusual_activity",
            "recommendations",
        ],
        "serve_outcomes": [
            "outcome_models", "published_outcome_models", "batch_models", "events", *customer_tiles, "user_scores",
        ],
        "serve_anomalies": ["events", "unusual_activity"],
        "serve_scores": [*factors_tables, "basket_counts", *profile_tables[:1], "recommendations"],
        "serve_tags": [
            "events", *profile_tables, "user_features", "user_segments", "user_scores", "user_groups", "user_tags",
        ],
        "serve_tables": [
            "events", *profile_tables[:1], "basket_counts", "user_groups", "user_tags", "user_segments",
            "segment_descriptions", "recommendations", "user_scores", "users", "items",
        ],
        "serve_audience": ["users", "audience_users"],
        "serve_trends": ["events", "user_segments"],
        "serve_user": [
            "events", *profile_tables, "category_hours", *segments_tables, "segment_descriptions", "user_groups",
            "user_tags", "user_scores", "unusual_activity", "recommendations", "user_features",
        ],
        "steward_compact_tiles": tiles,
    }  # fmt: skip


def _tiles(features: DeclaredFeatures | None, entity: str) -> list[str]:
    return [features.entities[entity]] if features and entity in features.entities else []
