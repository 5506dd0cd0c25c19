"""The three figures of a life, counted from what lies at the provider, in the store and in the result file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import text

from airflow_raif.domain.batch import Batch
from airflow_raif.store import Store
from tests.chaos.answers import answer_text, request_ids
from tests.chaos.plan import Plan
from tests.chaos.provider import AtProvider, Report
from tests.chaos.worker import World, claim_of, ends_of
from tests.support import read_rows

#: Errors that a refusal of the provider ends in.
REFUSED = ("AuthenticationError", "RejectedError", "BatchNotFoundError", "AmbiguousSubmitError")
PARTS_FILE = "part-{:05d}.requests.jsonl"


class Figures(msgspec.Struct, kw_only=True):
    """What must be nothing."""

    #: Batches at the provider beyond one per part.
    twice: int = 0
    #: Rows in minus rows accounted for.
    lost: int = 0
    #: Paid answers that are not in the result file.
    dropped: int = 0
    #: Whatever else is wrong, in words.
    wrong: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.twice or self.lost or self.dropped or self.wrong)


def check(plan: Plan, store: Store, world: World, report: Report, history: list[str], *, is_done: bool) -> Figures:
    """Count."""
    figures = Figures()
    if not is_done:
        figures.wrong.append("the task never came to its end")
    figures.wrong += [each for each in history if _is_wrong(each, report)]
    batches = batches_of(world, store)
    _count_creates(figures, batches, world, report)
    if not is_done or not batches:
        return figures
    for each in batches:
        _check_usage(figures, each, report)
        if each.results_fetched_at is None:
            figures.wrong.append(f"the results of batch {each.batch_id} were never fetched")
    for each in batches[:-1]:
        if each.usage.output_tokens and not each.was_canceled:
            figures.wrong.append(f"batch {each.batch_id} was paid and not canceled, and another one made")
    batch = batches[-1]
    if batch.applied_at is None or batch.result_uri is None:
        figures.wrong.append("the batch is not applied")
        return figures
    found = _read_parts(figures, plan, world, batch) if plan.by_parts else read_rows(batch.result_uri)
    _count_rows(figures, plan, batch, found)
    _count_answers(figures, plan, batch, found, report, history)
    return figures


def _is_wrong(line: str, report: Report) -> bool:
    """Whether a try ended as it should not: what failed for good is what the provider refused, until a user clears."""
    if ": broken" in line or ": silent" in line:
        return True
    if ": fatal" not in line or line.startswith("zombie"):
        return False
    if "fatal: AmbiguousSubmitError" in line and "only time and size tell" in line:
        # A batch without a mark is not canceled by these alone; a user is to decide, or it ends and its results tell.
        return False
    refused = {each.partition(" ")[0] for each in report.struck} & {"400", "401", "404"}
    return not (refused and any(f": {error}" in line for error in REFUSED))


def batches_of(world: World, store: Store) -> list[Batch]:
    """Return every batch that the task instance ever had, oldest first."""
    claim = claim_of(world)
    with store._transaction() as connection:
        ids = connection.scalars(
            text("SELECT batch_id FROM raif_batch WHERE dag_id = :dag AND run_id = :run ORDER BY id"),
            {"dag": claim.dag_id, "run": claim.run_id},
        ).all()
    return [store.get_batch(each) for each in ids]


def _count_creates(figures: Figures, batches: list[Batch], world: World, report: Report) -> None:
    parts: Counter[tuple[str, ...]] = Counter()
    known: Counter[str] = Counter()
    for batch in batches:
        for part in batch.parts:
            if part.is_synchronous or part.is_shared or part.raw_status == "divided":
                continue
            spooled = world.home / "spool" / batch.batch_id / PARTS_FILE.format(part.number)
            parts[request_ids(spooled.read_bytes())] += 1
            known[part.provider_batch_id or ""] += 1
    made = Counter(each.ids for each in report.batches)
    figures.twice = sum((made - parts).values())
    orphans = [each.id for each in report.batches if not known[each.id]]
    if orphans:
        figures.wrong.append(f"the store does not know {orphans}")
    tags = Counter(each.tag for each in report.batches if each.tag)
    if again := [tag for tag, number in tags.items() if number > 1]:
        figures.wrong.append(f"made more than once: {again}")


def _read_parts(figures: Figures, plan: Plan, world: World, batch: Batch) -> list[dict[str, Any]]:
    """Return the rows in the files of all parts, in input order; each file has its own in order, of one model."""
    files = sorted(Path((batch.result_uri or "").removeprefix("file://")).glob("results-*.jsonl"))
    if left := [part.number for part in batch.first_parts if part.applied_at is None]:
        figures.wrong.append(f"parts {left} are not applied, and the batch is")
    if len(files) != len(batch.first_parts):
        figures.wrong.append(f"{len(batch.first_parts)} parts are in {[file.name for file in files]}")
    found: list[dict[str, Any]] = []
    for file in files:
        rows = read_rows(str(file))
        shelves = [row["shelf"] for row in rows]
        models = {plan.model_of(shelf) for shelf in shelves if shelf not in plan.doubles}
        if shelves != sorted(shelves) or len(models) > 1 or not file.name.endswith(f"-{min(shelves):012d}.jsonl"):
            figures.wrong.append(f"{file.name} has rows {shelves} of {models}")
        found += rows
    ends = ends_of(world, batch.batch_id)
    told = ends.read_text().split() if ends.exists() else []
    if plan.is_told and len(set(told)) != 1:
        figures.wrong.append(f"the end of the batch was told by parts {told}")
    return sorted(found, key=lambda row: int(row["shelf"]))


def _count_rows(figures: Figures, plan: Plan, batch: Batch, found: list[dict[str, Any]]) -> None:
    given = [each["custom_id"] for each in plan.given()]
    ids = [each["custom_id"] for each in found]
    if batch.is_cut_short:
        # What was not read of the input when somebody canceled is in no batch, nor are rows between those of its parts
        # that would have taken their answers or ask other models; its task fails.
        given = (
            [each for each in given if each in ids] if plan.doubles or plan.has_models else given[: batch.request_count]
        )
        figures.lost += batch.request_count - len(given)
    figures.lost += len(given) - sum((Counter(given) & Counter(ids)).values())
    if ids != given:
        figures.wrong.append(f"rows are not as they came in: {ids}")
    if open_rows := [each["custom_id"] for each in found if each["status"] not in ("completed", "failed")]:
        figures.lost += len(open_rows)
        figures.wrong.append(f"rows without an outcome: {open_rows}")
    if shelves := [each["shelf"] for each in found if f"row {each['shelf']}" != each["custom_id"]]:
        figures.wrong.append(f"columns of other rows: {shelves}")


def _count_answers(
    figures: Figures, plan: Plan, batch: Batch, found: list[dict[str, Any]], report: Report, history: list[str]
) -> None:
    prefix = batch.batch_id[:16]
    paid: dict[int, list[str]] = {}
    for made in report.batches:
        for wire_id, (answer, _) in made.paid.items():
            if wire_id.startswith(prefix):
                paid.setdefault(int(wire_id.rpartition("-")[2]), []).append(answer)
    calls = _synchronous(plan, figures, report)
    for row in found:
        index = plan.doubles.get(row["shelf"], row["shelf"])
        answers = paid.get(index, [])
        got = _text(row)
        if answers and not any(_same(each, row, got) for each in answers + calls.get(index, [])):
            figures.dropped += 1
            figures.wrong.append(f"row {index} has {got!r} ({row['status']} {row['reason']}), paid was {answers}")
        if row["status"] == "completed" and not any(_same(each, row, got) for each in answers + calls.get(index, [])):
            figures.wrong.append(f"row {index} has {got!r}, which is no answer to it")
    if not any("killed" in each for each in history):
        by_index = {row["shelf"]: row for row in found}
        for index, answers in calls.items():
            row = by_index[index]
            if not any(_same(each, row, _text(row)) for each in answers):
                lost = (row["error"] or {}).get("code") == "lost"
                if not (lost or paid.get(index)):
                    figures.dropped += 1
                    figures.wrong.append(f"the synchronous answer of row {index} is not there: {row}")


def _synchronous(plan: Plan, figures: Figures, report: Report) -> dict[int, list[str]]:
    """Return the answers of synchronous calls by row; each is paid when it is made."""
    calls: dict[int, list[str]] = {}
    lost: dict[int, int] = {}
    for request, status, answer, fault in report.synchronous:
        number = int(request.split(b"Sum up number ")[1].split(b":")[0])
        if status != 200:
            continue
        lost[number] = lost.get(number, 0) + 1
        if fault:
            continue
        calls.setdefault(number, []).append(answer_text(plan.provider, json.loads(answer)))
    if again := [number for number, count in lost.items() if count > 1]:
        figures.twice += len(again)
        figures.wrong.append(f"synchronous calls made more than once: rows {again}")
    return calls


def _text(row: dict[str, Any]) -> Any:
    return row["output"] if row["status"] == "completed" else row["raw_output"]


def _same(answer: str, row: dict[str, Any], got: Any) -> bool:
    if got == answer or (not answer and (row["error"] is not None or got in (None, ""))):
        return True
    try:
        return got is not None and json.loads(answer) == got
    except ValueError:
        return False


def _check_usage(figures: Figures, batch: Batch, report: Report) -> None:
    total: Any = None
    for part in batch.parts:
        total = part.usage if total is None else total + part.usage
    if batch.usage != total:
        figures.wrong.append(f"usage of the batch {batch.usage} is not that of its parts {total}")
    prefix = batch.batch_id[:16]
    mine: list[AtProvider] = [each for each in report.batches if each.ids and each.ids[0].startswith(prefix)]
    said = sum(part.usage.output_tokens for part in batch.parts if not part.is_synchronous)
    billed = sum(tokens for each in mine for _, tokens in each.paid.values())
    if said != billed:
        figures.wrong.append(f"usage says {said} output tokens, billed were {billed}")
