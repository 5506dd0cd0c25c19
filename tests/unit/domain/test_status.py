"""The rules that connect statuses."""

import pytest

from airflow_raif.domain.status import BatchStatus, can_move, combine

S = BatchStatus


@pytest.mark.parametrize(
    ("parts", "batch"),
    [
        ([], S.PENDING),
        ([S.PENDING, S.PENDING], S.PENDING),
        ([S.PENDING, S.SUBMITTED], S.SUBMITTED),
        ([S.SUBMITTED, S.IN_PROGRESS], S.IN_PROGRESS),
        ([S.ENDED, S.IN_PROGRESS], S.IN_PROGRESS),
        ([S.ENDED, S.PENDING], S.IN_PROGRESS),
        ([S.ENDED, S.ENDED], S.ENDED),
        ([S.ENDED, S.FAILED], S.ENDED),
        ([S.CANCELED, S.FAILED], S.CANCELED),
        ([S.EXPIRED, S.CANCELED], S.EXPIRED),
        ([S.FAILED], S.FAILED),
    ],
)
def test_batch_status_follows_its_parts(parts, batch):
    """A batch is terminal only when every part is, and tells how they ended."""
    assert combine(parts) is batch


@pytest.mark.parametrize("terminal", [S.ENDED, S.CANCELED, S.EXPIRED, S.FAILED])
def test_terminal_statuses_are_final(terminal):
    """A late poll cannot reopen a batch, nor change how it ended."""
    assert not any(can_move(terminal, other) for other in S)


def test_status_never_moves_backwards():
    """A stale answer of the provider is ignored."""
    assert can_move(S.SUBMITTED, S.IN_PROGRESS)
    assert not can_move(S.IN_PROGRESS, S.SUBMITTED)
    assert can_move(S.IN_PROGRESS, S.IN_PROGRESS)
