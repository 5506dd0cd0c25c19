"""What every service works with; the hooks floor puts it together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_raif.adapters.base import Adapter, SpooledPart, Transport
from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import EndingError
from airflow_raif.pricing.prices import PriceBook
from airflow_raif.services.metrics import Metrics, NoMetrics
from airflow_raif.spool.files import Folder, requests_file
from airflow_raif.store import Store


def utc_now() -> datetime:
    """Return the time, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Runtime:
    """A store, one connection's adapter and transport, and the folder under which batches are spooled."""

    store: Store
    adapter: Adapter
    transport: Transport
    spool: Folder
    conn_id: str
    prices: PriceBook = field(default_factory=PriceBook)
    clock: Callable[[], datetime] = utc_now
    metrics: Metrics = field(default_factory=NoMetrics)
    #: Parts whose results are downloaded at the same time.
    parallel_downloads: int = 1
    #: Whether whoever works with it was told to end; then nothing is sent any more that would be paid.
    is_ending: Callable[[], bool] = lambda: False
    #: Told of how many rows are done with, of long work that somebody looks at.
    on_rows: Callable[[int], object] = lambda _: None

    def check_going_on(self) -> None:
        """Raise before something is sent that would be paid, if nobody will be there for the answer.

        :raises EndingError: see above.
        """
        if self.is_ending():
            raise EndingError(
                "the task was told to end; nothing more was sent, and the next attempt goes on from there"
            )

    def folder(self, batch_id: str) -> Folder:
        """Return the folder of one batch's spool files."""
        return self.spool.child(batch_id)

    def spooled_part(self, batch: Batch, part: Part) -> SpooledPart:
        """Return a part's requests as an adapter takes them."""
        return SpooledPart(
            batch_id=batch.batch_id,
            number=part.number,
            model=part.model,
            endpoint=batch.endpoint,
            request_count=part.request_count,
            request_bytes=part.request_bytes,
            blocks=self.folder(batch.batch_id).blocks(requests_file(part.number)),
            metadata=batch.metadata,
        )
