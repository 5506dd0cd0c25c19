"""What Airflow discovers of this package. Must import nothing: every Airflow process runs it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the package's metadata as Airflow's ``provider_info`` schema has it."""
    return {
        "package-name": "airflow-raif",
        "name": "RAIF",
        "description": "LLM work through the providers' Batch APIs, at half price.",
        "integrations": [
            {
                "integration-name": "LLM batch inference",
                "external-doc-url": "https://platform.openai.com/docs/guides/batch",
                "tags": ["service"],
            }
        ],
        "operators": [{"integration-name": "LLM batch inference", "python-modules": _OPERATORS}],
        "task-decorators": [{"name": "raif_batch", "class-name": "airflow_raif.decorators.batch.raif_batch_task"}],
        "sensors": [{"integration-name": "LLM batch inference", "python-modules": ["airflow_raif.sensors.batch"]}],
        "hooks": [{"integration-name": "LLM batch inference", "python-modules": ["airflow_raif.hooks.batch"]}],
        "notifications": ["airflow_raif.notifications.batch.BatchNotifier"],
        "triggers": [{"integration-name": "LLM batch inference", "python-modules": ["airflow_raif.triggers.batch"]}],
        "connection-types": [
            _connection_type("raif_openai", "OpenAIBatchHook", "https://api.openai.com/v1", _OPENAI_FIELDS),
            _connection_type("raif_anthropic", "AnthropicBatchHook", "https://api.anthropic.com", _ANTHROPIC_FIELDS),
            _connection_type(
                "raif_gemini", "GeminiBatchHook", "https://generativelanguage.googleapis.com", _QUEUE_FIELDS
            ),
        ],
        "extra-links": [f"airflow_raif.operators.links.{name}" for name in ("BatchPageLink", "ProviderConsoleLink")],
        "config": {"raif": {"description": "LLM batches.", "options": _OPTIONS}},
        "cli": ["airflow_raif.cli.get_commands"],
        "db-managers": ["airflow_raif.hooks.db_manager.RaifDBManager"],
    }


_OPERATORS = ["airflow_raif.operators.batch", "airflow_raif.operators.maintenance"]


def _field(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], **schema}}


def _number(label: str, description: str) -> dict[str, Any]:
    return _field(label, description, type=["integer", "null"], minimum=1)


_COMMON_FIELDS = {
    "model": _field("Default model", "Model of the hook's own calls where none is given."),
    "timeout": _field("Timeout (s)", "Seconds to wait for an answer; 60 if empty.", type=["number", "null"]),
    "max_requests": _number(
        "Requests per part", "At most this many requests in one batch job; the provider's if empty."
    ),
    "max_bytes": _number("Bytes per part", "At most this many bytes in one batch job; the provider's limit if empty."),
    "max_cost_per_day": _field(
        "Budget of a day (USD)",
        "What all batches on this connection may cost in a day (UTC); what would cost more is not sent.",
        type=["number", "null"],
        exclusiveMinimum=0,
    ),
    "max_request_bytes": _number(
        "Bytes per request", "At most this many bytes in one request; the provider's limit if empty."
    ),
}
_QUEUE_FIELDS = {
    name: _field(
        f"Enqueued {what}",
        f"At most this many {what} of a model are queued at once, parts beyond wait: a number, or one for each model"
        ' as JSON, {"a-model": 1000}. Empty: what the provider refuses tells.',
    )
    for name, what in (("max_enqueued_tokens", "input tokens"), ("max_enqueued_requests", "requests"))
}
_OPENAI_FIELDS = {
    "organization": _field("Organization", "OpenAI organization id that the usage is counted for."),
    "project": _field("Project", "OpenAI project id that the usage is counted for."),
    "max_embedding_inputs": _number(
        "Embedding inputs per part", "At most this many texts to embed in one batch job; the provider's if empty."
    ),
    **_QUEUE_FIELDS,
}
_ANTHROPIC_FIELDS = {
    "anthropic_beta": _field("Beta features", "Value of the anthropic-beta header, such as output-300k-2026-03-24."),
    "anthropic_workspace_id": _field("Workspace", "Anthropic workspace id that the usage is counted for."),
    "max_enqueued_requests": _number(
        "Enqueued requests", "At most this many requests are queued at once, parts beyond wait; see your tier's limit."
    ),
}


def _connection_type(kind: str, hook: str, address: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "connection-type": kind,
        "hook-class-name": f"airflow_raif.hooks.batch.{hook}",
        "ui-field-behaviour": {
            "hidden-fields": ["login", "port", "schema", "extra"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {"host": address, "password": "the provider's API key"},
        },
        "conn-fields": {**fields, **_COMMON_FIELDS},
    }


def _option(description: str, default: str, example: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example,
        "default": default,
        **more,
    }


_OPTIONS = {
    "sql_alchemy_conn": _option(
        "Database of the metadata tables. Empty: the connection that state_conn_id names, then a file in AIRFLOW_HOME.",
        "",
        "postgresql://raif:secret@db/raif",
        sensitive=True,
    ),
    "state_conn_id": _option(
        "Connection to the database of the metadata tables, which must exist. Empty: raif_state, if it exists.", ""
    ),
    "spool_path": _option(
        "Folder for requests and raw results, on any object storage. Empty: raif_spool in AIRFLOW_HOME.",
        "",
        "s3://bucket/raif/spool",
    ),
    "result_path": _option(
        "Folder for result files, on any object storage. Empty: raif_results in AIRFLOW_HOME.",
        "",
        "s3://bucket/raif/results",
    ),
    "spool_conn_id": _option("Connection for the object storage of spool and results.", "", "aws_default"),
    "price_table": _option(
        "Prices of your own, looked at first: a JSON object, or the address of a file with one, of"
        " {provider:model: {input, cached, cache_write, cache_write_1h, output, standard_factor}}, in US dollars per"
        " million tokens at batch price. Cache prices default to the input's, standard_factor (how much dearer the"
        " synchronous API is) to 2.",
        "",
        '{"openai:gpt-5-nano": {"input": 0.025, "cached": 0.0025, "output": 0.2}}',
    ),
    "poll_intervals": _option(
        "Seconds between the polls of a waiting batch; the last one repeats.", "60,120,300,600,1800"
    ),
    "min_dwell_seconds": _option(
        "Seconds that a wait stays deferred at least, so that the scheduler has seen the deferral.", "10"
    ),
    "outage_pause": _option(
        "Seconds that a task waits, deferred, before it asks a provider again that does not answer.", "300"
    ),
    "parallel_downloads": _option("Parts whose results a task downloads at the same time.", "4"),
    "store_timeout": _option("Seconds that a task waits for metadata tables that do not answer.", "300"),
}
