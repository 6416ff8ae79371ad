"""Delta tables without rows, made without Spark."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import Schema

VECTORS = ("deletionVectors",)


def create(folder: Path, schema: pa.Schema, features: tuple[str, ...] = VECTORS) -> Path:
    """Create a table with these reader and writer features; returns its folder."""
    protocol = {
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features,
    }  # fmt: skip
    metadata = {
        "id": str(folder.stat().st_ino if folder.exists() else 0), "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(schema).to_json(), "partitionColumns": [],
        "configuration": {"delta.enableDeletionVectors": "true"}, "createdTime": 0,
    }  # fmt: skip
    log = folder / "_delta_log"
    log.mkdir(parents=True)
    info = {"engineInfo": "profilestream"}
    entries: list[dict[str, Any]] = [{"commitInfo": info}, {"protocol": protocol}, {"metaData": metadata}]
    (log / f"{0:020d}.json").write_text("\n".join(map(json.dumps, entries)))
    return folder
