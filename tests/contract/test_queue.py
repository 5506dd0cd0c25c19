"""Queues at the providers: what has no room follows later, first come first served; refusals cost nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import InvalidBatchError, TransientProviderError
from airflow_raif.domain.queue import LEARNT_FOR, PAUSES, PLACE_KEPT_FOR, tokens_of
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.results import read_lines
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.advance import advance_batch, advance_part
from airflow_raif.services.apply import apply_part, apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.find import LIST_LAG_SECONDS
from airflow_raif.services.manifest import manifest_of
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.start import start_batch
from airflow_raif.spool.files import requests_file
from tests.support import PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

PENDING = BatchStatus.PENDING
OTHER_MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}


class Queue:
    """Connections of one name to an emulator, with a clock that is moved on."""

    def __init__(self, emulator_of, store, tmp_path, stack):
        self._emulator_of, self.store, self._path, self._stack = emulator_of, store, tmp_path, stack
        self.ahead = timedelta()
        self.emulator = emulator_of(clock=lambda: self.clock().timestamp())

    def settings(self, **values):
        for name, value in values.items():
            object.__setattr__(self.emulator.settings, name, value)

    def clock(self):
        return datetime.now(UTC) + self.ahead

    def passes(self, seconds):
        self.ahead += seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)

    def connect(self, provider, part=2, **quotas):
        opened = runtime_of(
            provider, self.emulator.url, self.store, self._path, limits={"max_requests": part}, queue_limits=quotas
        )
        return dataclasses.replace(self._stack.enter_context(opened), clock=self.clock)

    def start(self, runtime, count, task="task", **defaults):
        return start_batch(
            runtime,
            lambda: rows(count),
            defaults=defaults_of(runtime.adapter.name, **defaults),
            claim=Claim("dag", "run", task),
        )

    def go_on(self, runtime, batch):
        """Do what a task does that comes back from its wait."""
        fetch_batch_status(runtime, batch.batch_id)
        return advance_batch(runtime, batch.batch_id)

    def live(self, runtime, batch, turns=50):
        for _ in range(turns):
            batch = self.go_on(runtime, batch)
            if batch.status.is_terminal:
                return batch
        raise AssertionError(f"not over after {turns} turns: {[part.status for part in batch.parts]}")

    def results(self, runtime, batch):
        done = apply_results(runtime, batch.batch_id, folder(self._path / "out" / batch.batch_id))
        return read_rows(done.result_uri)

    def creates(self, provider):
        return self.emulator.state.creates[provider]

    def running(self, provider):
        """The requests that are queued at the provider."""
        batches = self.emulator.state.batches[provider].values()
        return sum(len(list(read_lines(batch.rows_path))) for batch in batches if not batch.is_terminal)


@pytest.fixture
def queue(emulator_of, store, tmp_path):
    with contextlib.ExitStack() as stack:
        yield Queue(emulator_of, store, tmp_path, stack)


def of(*providers):
    return pytest.mark.parametrize("provider", providers)


def held(batch):
    return [part.number for part in batch.parts if part.status is PENDING]


def completed(found):
    return [row["status"] for row in found].count("completed")


# Limits of the connection


@of(*PROVIDERS)
def test_what_has_no_room_follows_as_parts_end(provider, queue):
    """Never more than the quota is queued, and in the end every row has its answer, in order."""
    runtime = queue.connect(provider, max_enqueued_requests=4)
    batch = queue.start(runtime, 9)
    assert (held(batch), queue.creates(provider)) == ([2, 3, 4], 2)
    assert [part["status"] for part in manifest_of(runtime, batch)["parts"]][2:] == ["pending"] * 3
    seen = []
    while not batch.status.is_terminal:
        batch = queue.go_on(runtime, batch)
        seen.append((len(held(batch)), queue.running(provider)))
    assert seen == [(1, 4), (0, 1), (0, 0)]
    assert [row["custom_id"] for row in queue.results(runtime, batch)] == [f"row {n}" for n in range(9)]
    assert completed(queue.results(runtime, batch)) == 9
    assert queue.creates(provider) == 5
    assert {part.round for part in batch.parts} == {0}


@of("openai")
def test_batches_share_a_queue_first_come_first_served(provider, queue):
    """A batch of another DAG waits until the one before it has sent all that it has."""
    queue.settings(progress=Progress.parse("polls:2"))
    runtime = queue.connect(provider, max_enqueued_requests=4)
    first = queue.start(runtime, 8, "first")
    second = queue.start(runtime, 4, "second")
    assert (held(first), held(second), queue.creates(provider)) == ([2, 3], [0, 1], 2)
    assert second.status is PENDING
    assert held(queue.go_on(runtime, second)) == [0, 1]
    queue.go_on(runtime, first)
    assert held(queue.go_on(runtime, second)) == [0, 1]
    first = queue.go_on(runtime, first)
    assert (held(first), queue.running(provider)) == ([], 4)
    assert held(queue.go_on(runtime, second)) == [0, 1]
    first = queue.live(runtime, first)
    second = queue.live(runtime, second)
    assert completed(queue.results(runtime, first)) == 8
    assert completed(queue.results(runtime, second)) == 4
    assert queue.creates(provider) == 6


def test_a_small_part_does_not_overtake_a_large_one(queue):
    """What is large would never have its turn otherwise."""
    queue.settings(progress=Progress.parse("polls:1000"))
    runtime = queue.connect("openai", part=3, max_enqueued_requests=5)
    running = queue.start(runtime, 3, "running")
    large, small = queue.start(runtime, 3, "large"), queue.start(runtime, 1, "small")
    assert (held(large), held(small)) == ([0], [0])
    queue.settings(progress=Progress())
    queue.live(runtime, running)
    assert held(queue.go_on(runtime, small)) == [0]
    assert held(advance_batch(runtime, large.batch_id)) == []
    assert held(advance_batch(runtime, small.batch_id)) == []


def test_a_batch_that_nobody_asks_for_gives_up_its_place(queue):
    """Its task may be gone for good; when it comes back it is first again."""
    queue.settings(progress=Progress.parse("polls:1000"))
    runtime = queue.connect("openai", max_enqueued_requests=2)
    running = queue.start(runtime, 2, "running")
    gone, alive = queue.start(runtime, 2, "gone"), queue.start(runtime, 4, "alive")
    queue.settings(progress=Progress())
    queue.live(runtime, running)
    assert held(queue.go_on(runtime, alive)) == [0, 1]
    queue.passes(PLACE_KEPT_FOR)
    assert held(advance_batch(runtime, alive.batch_id)) == [1]
    assert held(queue.start(runtime, 2, "gone")) == [0]
    fetch_batch_status(runtime, alive.batch_id)
    assert held(advance_batch(runtime, alive.batch_id)) == [1]
    assert held(advance_batch(runtime, gone.batch_id)) == []


def test_each_model_has_a_queue_of_its_own(queue):
    """OpenAI counts the tokens of each model; a number may be given for each, and Anthropic has one queue for all."""
    queue.settings(progress=Progress.parse("polls:1000"))
    small = {"gpt-5-nano": 100, "gpt-5-mini": 10_000}
    runtime = queue.connect("openai", max_enqueued_tokens=small)
    assert held(queue.start(runtime, 4, "nano")) == [1]
    assert held(queue.start(runtime, 4, "mini", model="gpt-5-mini")) == []
    assert held(queue.start(runtime, 4, "other", model="gpt-5")) == []
    runtime = queue.connect("anthropic", max_enqueued_requests=4)
    assert held(queue.start(runtime, 2, "haiku")) == []
    assert held(queue.start(runtime, 4, "sonnet", model=OTHER_MODELS["anthropic"])) == [1]


def test_other_connections_have_other_queues(queue):
    """What one key has queued is nothing to another."""
    queue.settings(progress=Progress.parse("polls:1000"))
    runtime = queue.connect("openai", max_enqueued_requests=2)
    queue.start(runtime, 2, "one")
    assert held(queue.start(dataclasses.replace(runtime, conn_id="other"), 2, "two")) == []


def test_tokens_to_the_last_one(queue):
    """Parts fit that make up the quota exactly; one token less holds the last one back."""
    queue.settings(progress=Progress.parse("polls:1000"))
    runtime = queue.connect("openai")
    parts = queue.start(runtime, 4, "measured").parts
    exact = tokens_of(sum(part.request_bytes for part in parts))
    for number, quota in enumerate((exact, exact - 1)):
        limited = dataclasses.replace(queue.connect("openai", max_enqueued_tokens=quota), conn_id=f"c{number}")
        assert held(queue.start(limited, 4, f"t{number}")) == ([] if quota == exact else [1])


@of("anthropic")
def test_what_is_larger_than_the_quota_goes_out_in_pieces(provider, queue):
    """No more is queued than the connection says, also where a single part would be; a lone request goes anyway."""
    runtime = queue.connect(provider, part=8, max_enqueued_requests=2)
    batch = queue.start(runtime, 8)
    assert [part.request_count for part in batch.parts if part.raw_status != "divided"] == [2, 2, 2, 2]
    assert queue.running(provider) == 2
    batch = queue.live(runtime, batch)
    assert completed(queue.results(runtime, batch)) == 8
    tight = queue.connect("openai", max_enqueued_tokens=1)
    batch = queue.start(tight, 2, "tight")
    assert queue.running("openai") == 1
    assert completed(queue.results(tight, queue.live(tight, batch))) == 2


def test_pieces_are_applied_by_tasks_of_their_own(queue, tmp_path):
    """A part that was divided is none to apply, its pieces are; a round that is held back goes out with any of them."""
    runtime = queue.connect("openai", part=4, max_enqueued_requests=2)
    batch = queue.start(runtime, 8)
    queue.emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=2))
    while not batch.status.is_terminal:
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id, may_fetch=False)
    numbers = [part.number for part in batch.first_parts]
    assert [part.request_count for part in batch.first_parts] == [2, 2, 2, 2]
    queue.emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=429))
    queue.settings(progress=Progress.parse("polls:1000"))
    rounds = [advance_part(runtime, batch.batch_id, number) for number in numbers]
    assert [share.is_fetched for share in rounds].count(False) == 2
    assert len(held(queue.store.get_batch(batch.batch_id))) == 2
    queue.passes(PAUSES[-1])
    advance_part(runtime, batch.batch_id, numbers[-1])
    assert held(queue.store.get_batch(batch.batch_id)) == []
    queue.settings(progress=Progress())
    fetch_batch_status(runtime, batch.batch_id)
    found = []
    for number in numbers:
        assert advance_part(runtime, batch.batch_id, number).is_fetched
        apply_part(runtime, batch.batch_id, number, folder(tmp_path / "parts"))
    for path in (tmp_path / "parts").iterdir():
        found += read_rows(str(path))
    assert sorted(row["custom_id"] for row in found if row["status"] == "completed") == [f"row {n}" for n in range(8)]
    assert queue.store.get_batch(batch.batch_id).applied_at is not None


@of("openai")
def test_a_quota_that_was_lowered_meanwhile(provider, queue):
    """Nothing more goes out until what is queued fits the new one again."""
    queue.settings(progress=Progress.parse("polls:1000"))
    batch = queue.start(queue.connect(provider, max_enqueued_requests=6), 10)
    assert held(batch) == [3, 4]
    lowered = queue.connect(provider, max_enqueued_requests=2)
    assert held(queue.go_on(lowered, batch)) == [3, 4]
    at_provider = list(queue.emulator.state.batches[provider].values())
    for each, left in zip(at_provider, ([3, 4], [3, 4], [4]), strict=True):
        cancel = lowered.adapter.cancel_request(each.id)
        lowered.transport.send(cancel)
        assert held(queue.go_on(lowered, batch)) == left


@of("gemini")
def test_a_large_batch_is_held_back_while_its_input_is_read(provider, queue):
    """What ends meanwhile makes room for what follows, in order, and the reading does not wait."""
    runtime = queue.connect(provider, max_enqueued_requests=2)
    created = []

    def watched():
        for n, row in enumerate(rows(9)):
            created.append(queue.creates(provider))
            if n == 6:
                (batch,) = queue.store.open_batches()
                fetch_batch_status(runtime, batch.batch_id)
            yield row

    batch = start_batch(runtime, watched, defaults=defaults_of(provider), claim=Claim("dag", "run", "task"))
    assert created == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert held(batch) == [2, 3, 4]
    assert completed(queue.results(runtime, queue.live(runtime, batch))) == 9


@of("anthropic")
def test_a_kill_between_claim_and_create(provider, queue):
    """The room stays taken until it is known that nothing was made; then the part is sent, once."""
    runtime = queue.connect(provider, max_enqueued_requests=2)
    queue.emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", drop="before"))
    with pytest.raises(TransientProviderError):
        queue.start(runtime, 2, "killed")
    assert held(queue.start(runtime, 2, "other")) == [0]
    queue.passes(LIST_LAG_SECONDS + 1)
    killed = queue.start(runtime, 2, "killed")
    assert killed.parts[0].provider_batch_id
    assert held(queue.start(runtime, 2, "other")) == [0]
    queue.live(runtime, killed)
    assert held(queue.start(runtime, 2, "other")) == []
    assert queue.creates(provider) == 2


@of("openai")
def test_a_batch_that_is_held_back_can_be_canceled(provider, queue):
    """Nothing of it was ever sent, so it is over at once; who comes after it moves up."""
    queue.settings(progress=Progress.parse("polls:1000"))
    runtime = queue.connect(provider, max_enqueued_requests=2)
    running = queue.start(runtime, 4, "running")
    waiting, last = queue.start(runtime, 3, "waiting"), queue.start(runtime, 2, "last")
    calls = sum(queue.emulator.state.requests.values())
    assert cancel_batch(runtime, waiting.batch_id) is BatchStatus.CANCELED
    assert sum(queue.emulator.state.requests.values()) == calls
    found = queue.results(runtime, fetch_batch_results(runtime, waiting.batch_id))
    assert [(row["status"], row["reason"]) for row in found] == [("failed", "canceled")] * 3
    assert queue.start(runtime, 3, "waiting").batch_id != waiting.batch_id
    assert cancel_batch(runtime, running.batch_id) is BatchStatus.CANCELED
    assert held(advance_batch(runtime, last.batch_id)) == []
    assert queue.creates(provider) == 2


# Refusals of OpenAI, which come after the create


def test_openais_refusal_is_no_failure(queue):
    """The part waits and is sent again as the file that was uploaded; no round is used, no row fails."""
    runtime = queue.connect("openai", part=5)
    queue.emulator.state.faults.token_limit_exceeded = 1
    batch = queue.start(runtime, 3)
    refused = batch.parts[0].provider_batch_id
    batch = queue.go_on(runtime, batch)
    (part,) = batch.parts
    assert (part.status, part.provider_batch_id, part.intent_at, part.raw_status) == (PENDING, None, None, "refused")
    assert part.error.startswith("token_limit_exceeded: Enqueued token limit reached for gpt-5-nano")
    assert queue.store.count_entries(batch).pending == 3
    assert not batch.status.is_terminal
    assert held(queue.go_on(runtime, batch)) == [0]
    assert queue.creates("openai") == 1
    queue.passes(PAUSES[0])
    batch = queue.live(runtime, batch)
    assert completed(queue.results(runtime, batch)) == 3
    assert (batch.parts[0].error, batch.error) == (None, None)
    assert refused != batch.parts[0].provider_batch_id
    assert [part.round for part in batch.parts] == [0]
    assert (queue.creates("openai"), queue.emulator.state.uploads["openai"]) == (2, 1)


def test_what_was_refused_goes_out_when_another_part_ends(queue):
    """The end of a part makes room; the pause is for when there is none."""
    queue.settings(progress=Progress.parse("polls:3"))
    runtime = queue.connect("openai")
    first = queue.start(runtime, 2, "first")
    queue.emulator.state.faults.token_limit_exceeded = 1
    second = queue.start(runtime, 2, "second")
    second = queue.go_on(runtime, second)
    assert held(second) == [0]
    assert held(queue.go_on(runtime, second)) == [0]
    queue.live(runtime, first)
    assert held(queue.go_on(runtime, second)) == []
    assert completed(queue.results(runtime, queue.live(runtime, second))) == 2


def test_pauses_grow(queue):
    """A queue that others fill is asked less and less often."""
    runtime = queue.connect("openai", part=1)
    queue.emulator.state.faults.token_limit_exceeded = -1
    batch = queue.start(runtime, 1)
    for number, pause in enumerate((*PAUSES, PAUSES[-1])):
        queue.go_on(runtime, batch)
        queue.passes(pause - 10)
        assert held(advance_batch(runtime, batch.batch_id)) == [0]
        assert queue.creates("openai") == number + 1
        queue.passes(11)
        assert held(advance_batch(runtime, batch.batch_id)) == []
        assert queue.creates("openai") == number + 2
    queue.emulator.state.faults.token_limit_exceeded = 0
    assert completed(queue.results(runtime, queue.live(runtime, batch))) == 1


def tokens_in(queue, count):
    """The tokens that so many rows are estimated to have."""
    runtime = dataclasses.replace(queue.connect("openai", part=100), conn_id="measure")
    batch = queue.start(runtime, count, f"measure {count}")
    queue.live(runtime, batch)
    queue.emulator.state.creates["openai"] = queue.emulator.state.uploads["openai"] = 0
    return tokens_of(batch.parts[0].request_bytes)


def test_a_limit_is_learnt_and_asked_again_after_a_day(queue):
    """What OpenAI says of its limit holds for every batch of the model, until it may have been raised."""
    limit = tokens_in(queue, 5)
    queue.settings(progress=Progress.parse("polls:3"), openai_max_enqueued_tokens=limit)
    runtime = queue.connect("openai", part=4)
    first, second = queue.start(runtime, 4, "first"), queue.start(runtime, 4, "second")
    fetch_batch_status(runtime, first.batch_id)
    assert held(queue.go_on(runtime, second)) == [0]
    queue.passes(PAUSES[0] + 1)
    third = queue.start(runtime, 4, "third")
    assert (held(queue.go_on(runtime, second)), held(third)) == ([0], [0])
    assert queue.creates("openai") == 2
    queue.settings(progress=Progress.parse("polls:1000"), openai_max_enqueued_tokens=10 * limit)
    queue.passes(LEARNT_FOR)
    assert held(queue.go_on(runtime, second)) == []
    assert held(queue.go_on(runtime, third)) == []
    assert queue.creates("openai") == 4
    queue.settings(progress=Progress())
    assert [completed(queue.results(runtime, queue.live(runtime, each))) for each in (first, second, third)] == [4] * 3


def test_a_part_larger_than_the_queue_is_divided(queue):
    """Its requests go out in smaller parts, as the bytes they were; no row is lost, repeated or out of place."""
    limit = tokens_in(queue, 3)
    queue.settings(openai_max_enqueued_tokens=limit)
    runtime = queue.connect("openai", part=20)
    batch = queue.start(runtime, 11)
    (whole,) = batch.parts
    spool = runtime.folder(batch.batch_id)
    sent = b"".join(spool.blocks(requests_file(0))())
    batch = queue.live(runtime, batch)
    pieces = [part for part in batch.parts if part.number]
    assert len(pieces) > 3
    assert all(tokens_of(part.request_bytes) <= limit for part in pieces)
    assert b"".join(b"".join(spool.blocks(requests_file(part.number))()) for part in pieces) == sent
    assert sum(part.request_count for part in pieces) == 11
    retired = batch.parts[0]
    assert (retired.id, retired.status, retired.raw_status) == (whole.id, BatchStatus.FAILED, "divided")
    assert (retired.request_count, retired.round, batch.error) == (0, 0, None)
    found = queue.results(runtime, batch)
    assert [(row["custom_id"], row["shelf"], row["status"]) for row in found] == [
        (f"row {n}", n, "completed") for n in range(11)
    ]
    assert {part.round for part in batch.parts} == {0}


def test_a_request_larger_than_the_queue_is_a_failed_row(queue):
    """The others go through; the row tells the provider's own words, and is not repeated."""
    limit = tokens_in(queue, 2)
    queue.settings(openai_max_enqueued_tokens=limit)
    given = rows(6)
    given[3]["prompt"] *= 60
    runtime = queue.connect("openai", part=20)
    batch = start_batch(runtime, lambda: given, defaults=defaults_of("openai"), claim=Claim("dag", "run", "task"))
    batch = queue.live(runtime, batch)
    found = queue.results(runtime, batch)
    assert [row["status"] for row in found] == ["completed"] * 3 + ["failed"] + ["completed"] * 2
    assert found[3]["reason"] == "errored"
    assert "Enqueued token limit reached for gpt-5-nano" in found[3]["error"]["message"]
    assert {part.round for part in batch.parts} == {0}


def test_a_part_that_should_fit_is_not_divided_at_once(queue):
    """The queue is full of what others sent: it is tried again, and divided only after several refusals."""
    runtime = queue.connect("openai", part=4)
    queue.emulator.state.faults.token_limit_exceeded = 3
    batch = queue.start(runtime, 4)
    for pause in PAUSES[:2]:
        batch = queue.go_on(runtime, batch)
        assert len(batch.parts) == 1
        queue.passes(pause + 1)
        advance_batch(runtime, batch.batch_id)
    batch = queue.go_on(runtime, batch)
    assert [part.request_count for part in batch.parts] == [0, 2, 2]
    assert completed(queue.results(runtime, queue.live(runtime, batch))) == 4


def test_a_late_word_of_a_refusal_changes_nothing(queue):
    """Who asked before the part was sent again tells of a batch that is nobody's any more."""
    queue.settings(progress=Progress.parse("polls:2"))
    runtime = queue.connect("openai")
    queue.emulator.state.faults.token_limit_exceeded = 1
    batch = queue.start(runtime, 2)
    part = batch.parts[0]
    answer = runtime.transport.send(runtime.adapter.get_request(part.provider_batch_id)).content
    late = runtime.adapter.parse_part(answer)
    assert late.refusal.max_tokens == 2_000_000
    queue.go_on(runtime, batch)
    runtime.store.record_states(
        {part.id: msgspec.structs.replace(late, refusal=None, status=BatchStatus.IN_PROGRESS)}, queue.clock()
    )
    assert queue.store.get_batch(batch.batch_id).parts[0].status is PENDING
    queue.passes(PAUSES[0] + 1)
    sent = advance_batch(runtime, batch.batch_id).parts[0]
    runtime.store.record_states({part.id: late}, queue.clock())
    assert queue.store.get_batch(batch.batch_id).parts[0] == sent
    assert completed(queue.results(runtime, queue.live(runtime, batch))) == 2
    assert queue.creates("openai") == 2


def test_a_lost_reply_after_a_refusal(queue):
    """The refused batch carries the same mark, and is not taken for the one that was made."""
    runtime = queue.connect("openai")
    queue.emulator.state.faults.token_limit_exceeded = 1
    batch = queue.start(runtime, 2)
    batch = queue.go_on(runtime, batch)
    queue.passes(PAUSES[0] + 1)
    queue.emulator.state.faults.http.append(HttpFault(route="openai.batches.create", drop="after"))
    batch = advance_batch(runtime, batch.batch_id)
    assert batch.parts[0].provider_batch_id == list(queue.emulator.state.batches["openai"])[-1]
    assert queue.creates("openai") == 2


def test_a_refusal_after_a_cancel(queue):
    """Somebody wanted it to stop: it is not sent again."""
    queue.settings(progress=Progress.parse("polls:1000"))
    runtime = queue.connect("openai")
    batch = queue.start(runtime, 4)
    queue.emulator.state.faults.token_limit_exceeded = 2
    queue.settings(progress=Progress())
    for each in batch.parts:
        runtime.transport.send(runtime.adapter.get_request(each.provider_batch_id))
    assert cancel_batch(runtime, batch.batch_id) is BatchStatus.CANCELED
    queue.passes(3600)
    assert advance_batch(runtime, batch.batch_id).status is BatchStatus.CANCELED
    assert queue.creates("openai") == 2


# Refusals of a create


@of("gemini")
def test_a_create_that_is_refused_is_held_back(provider, queue):
    """A 429 is waited out, as long as the provider asks; nobody else of the queue knocks meanwhile."""
    runtime = queue.connect(provider)
    fault = HttpFault(route=f"{provider}.batches.create", status=429, retry_after=200)
    queue.emulator.state.faults.http.append(fault)
    batch, other = queue.start(runtime, 4, "task"), queue.start(runtime, 2, "other")
    assert (held(batch), held(other)) == ([0, 1], [0])
    assert batch.parts[0].intent_at is None
    queue.passes(190)
    advance_batch(runtime, batch.batch_id)
    assert queue.emulator.state.requests[f"{provider}.batches.create"] == 1
    queue.passes(11)
    assert held(advance_batch(runtime, other.batch_id)) == [0]
    assert held(advance_batch(runtime, batch.batch_id)) == []
    assert held(advance_batch(runtime, other.batch_id)) == []
    assert completed(queue.results(runtime, queue.live(runtime, batch))) == 4
    assert queue.creates(provider) == 3


QUOTAS = {
    "openai": "openai_max_enqueued_tokens",
    "anthropic": "anthropic_max_queued_requests",
    "gemini": "gemini_max_enqueued_tokens",
}


@of(*PROVIDERS)
def test_two_dags_under_the_providers_own_quota(provider, queue):
    """Nothing is configured: what the provider refuses is found out, and every row has its answer, paid once."""
    quota = 5 if provider == "anthropic" else 400
    queue.settings(**{QUOTAS[provider]: quota}, progress=Progress.parse("polls:2"))
    runtime = queue.connect(provider, part=3)
    batches = [queue.start(runtime, count, f"dag {count}") for count in (9, 8, 2)]
    for _ in range(60):
        batches = [queue.go_on(runtime, batch) for batch in batches]
        queue.passes(61)
        if all(batch.status.is_terminal for batch in batches):
            break
    assert [completed(queue.results(runtime, batch)) for batch in batches] == [9, 8, 2]
    ended = [each for each in queue.emulator.state.batches[provider].values() if each.status == "ended"]
    assert sum(each.tally.succeeded for each in ended) == 19
    assert all(part.round == 0 for batch in batches for part in batch.parts)


@of("gemini")
def test_a_part_that_no_create_takes_is_divided(provider, queue):
    """Where the refusals do not tell what fits, smaller parts are tried after several."""
    quota = 2 if provider == "anthropic" else 180
    queue.settings(**{QUOTAS[provider]: quota})
    runtime = queue.connect(provider, part=4)
    batch = queue.start(runtime, 4)
    for _ in range(20):
        batch = queue.go_on(runtime, batch)
        queue.passes(301)
        if batch.status.is_terminal:
            break
    assert completed(queue.results(runtime, batch)) == 4
    assert len(batch.parts) >= 3


@of("anthropic")
def test_a_single_request_outlasts_any_number_of_429s(provider, queue):
    """A 429 may be for the rate of calls, which says nothing against the request."""
    runtime = queue.connect(provider)
    queue.emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", status=429, times=8))
    batch = queue.start(runtime, 1)
    for _ in range(8):
        assert held(batch) == [0]
        queue.passes(PAUSES[-1] + 1)
        batch = queue.go_on(runtime, batch)
    assert completed(queue.results(runtime, queue.live(runtime, batch))) == 1
    assert queue.creates(provider) == 1


@of("openai")
def test_a_batch_that_was_never_asked_for_cannot_be_canceled(provider, queue):
    """What was only created is nobody's to cancel, as before."""
    runtime = queue.connect(provider, max_enqueued_requests=1)
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    with pytest.raises(InvalidBatchError, match="was never submitted"):
        cancel_batch(runtime, batch.batch_id)
