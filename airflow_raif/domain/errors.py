"""Everything this package raises on purpose.

RaifError                        retryable: bool
  ConfigurationError             unknown provider, missing extra, bad connection
  ConnectionUnavailableError     Airflow cannot be asked for a connection now (retryable)
  InvalidBatchError              not submittable, empty, or otherwise not a batch
    EmptyBatchError              no row came from the input
    BudgetExceededError          it would cost more than it may; retryable if only that day's budget is used up
    InputChangedError            the input is not what the task's batch was made of
    InvalidRequestError          one row cannot be sent; names the row, the value and the remedy
      LimitExceededError         a row over the provider's limit
      DuplicateCustomIdError     two rows with one custom_id
  ProviderError                  provider, HTTP status, request id
    TransientProviderError       may work later (retryable)
      RateLimitedError           429, with retry_after seconds when given
      UnavailableError           5xx, timeouts, connection refused or lost
      MalformedResponseError     a 2xx whose body is not what the provider documents, as from a gateway
    AuthenticationError          401, 403, and Gemini's 400 API_KEY_INVALID
    RejectedError                other 4xx: the request is wrong
    BatchNotFoundError           404 for a batch or a file
  AmbiguousSubmitError           a create may or may not have happened; nothing more was sent
  BatchStoppingError             the task's batch is being canceled; a new one has to wait (retryable)
  EndingError                    the task is being ended, so nothing more was sent (retryable)
  BatchOutcomeError              how a batch ended, when that fails the task
    FailedBatchError, ExpiredBatchError, CanceledBatchError, PartialBatchError, DeadlineExceededError
  HandlerError                   the user's handler raised (retryable)
  TaskMissingError               Airflow does not know a batch's task any more
  StoreError                     the metadata tables
    StoreUnavailableError        retryable
    StoreNotReadyError           wrong or missing revision; says what to run
"""

from __future__ import annotations


class RaifError(Exception):
    """Base of every error of this package."""

    #: Whether the same call may succeed later without a change.
    retryable = False


class ConfigurationError(RaifError):
    """Something in the set-up is missing or wrong; the message says what to do."""


class ConnectionUnavailableError(RaifError):
    """A connection cannot be looked up now; whether there is one is not known."""

    retryable = True


class InvalidBatchError(RaifError):
    """The batch cannot be submitted or canceled as it is."""


class EmptyBatchError(InvalidBatchError):
    """No row came from the input."""

    def __init__(self) -> None:
        super().__init__("the batch is empty: no row came from the input")


class BudgetExceededError(InvalidBatchError):
    """The batch would cost more than it may; nothing of it was sent.

    :param is_of_day: only the budget of the day is too small for it, so that it may be sent on another.
    """

    def __init__(self, message: str, *, is_of_day: bool = False) -> None:
        super().__init__(message)
        self.retryable = is_of_day


class InputChangedError(InvalidBatchError):
    """The input is not what the task's batch was made of, which may be paid.

    :param what: what was seen of the change.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}; nothing was submitted again, since that would be paid twice. Restore the rows, in their order, to"
            " go on with the batch, or set on_input_change='resubmit' to cancel it and start anew"
        )


class InvalidRequestError(InvalidBatchError):
    """One row cannot be sent.

    :param row: position of the row in the input, from 0.
    """

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class LimitExceededError(InvalidRequestError):
    """A row is larger than the provider takes."""


class DuplicateCustomIdError(InvalidRequestError):
    """Two rows have the same custom_id."""


class ProviderError(RaifError):
    """The provider refused or failed a call."""

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.code = code
        self.request_id = request_id


class TransientProviderError(ProviderError):
    """The provider may answer later."""

    retryable = True

    #: Seconds the provider asked to wait, if it did.
    retry_after: float | None = None
    #: False only when the request certainly never reached the provider.
    maybe_sent: bool = True


class RateLimitedError(TransientProviderError):
    """HTTP 429."""


class UnavailableError(TransientProviderError):
    """HTTP 408, 409, 5xx, 529, a timeout, or a lost or refused connection."""


class AuthenticationError(ProviderError):
    """The key is missing, wrong or not allowed to do this."""


class RejectedError(ProviderError):
    """The provider will not take this request."""


class BatchNotFoundError(ProviderError):
    """The provider does not know the batch or the file."""


class MalformedResponseError(TransientProviderError):
    """A successful answer that cannot be understood."""


class AmbiguousSubmitError(RaifError):
    """Whether the provider created a batch cannot be told, and no retry will tell; nothing more was sent."""


class BatchStoppingError(RaifError):
    """The batch that holds a task's place was told to stop and has not; a new one takes its place once it has.

    :param outage: why it cannot be told, or its results cannot be fetched, now.
    """

    retryable = True

    def __init__(self, batch_id: str, outage: TransientProviderError | None = None) -> None:
        why = f" ({outage})" if outage is not None else ""
        super().__init__(f"batch {batch_id} is being canceled; a new one takes its place once it has stopped{why}")
        self.batch_id = batch_id
        self.outage = outage


class EndingError(RaifError):
    """The task was told to end while it was at work."""

    retryable = True


class BatchOutcomeError(RaifError):
    """A batch ended in a way that fails the task."""


class FailedBatchError(BatchOutcomeError):
    """The provider failed the batch, or every entry failed."""


class ExpiredBatchError(BatchOutcomeError):
    """The batch expired at the provider."""


class CanceledBatchError(BatchOutcomeError):
    """The batch was canceled."""


class PartialBatchError(BatchOutcomeError):
    """More entries failed than the task allows."""


class DeadlineExceededError(BatchOutcomeError):
    """The user's own deadline passed."""


class HandlerError(RaifError):
    """A handler of the user's raised for some of the results."""

    retryable = True


class TaskMissingError(RaifError):
    """The task that a batch belongs to is in Airflow no more, so nobody goes on with the batch."""

    def __init__(self, dag_id: str, run_id: str, task_id: str) -> None:
        super().__init__(
            f"Airflow knows no task {task_id!r} in run {run_id!r} of Dag {dag_id!r} any more, so none goes on with the"
            " batch; in a task of your own BatchHook's advance_batch and apply_batch_results do"
        )


class StoreError(RaifError):
    """The metadata tables cannot be used."""


class StoreUnavailableError(StoreError):
    """The store does not answer now."""

    retryable = True


class StoreNotReadyError(StoreError):
    """The tables are missing or of another revision."""
