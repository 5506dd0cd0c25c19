"""Where results go beside the result file; each may be written again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from airflow_raif.services.results import Results


class Destination(Protocol):
    """What an operator's ``destination`` has to have.

    Attributes that ``template_fields`` names, if it has any, are rendered as Airflow's templates. Its ``repr`` is shown
    in Airflow's pages and is part of the DAG's version, so it has to be the same each time the DAG is parsed.
    """

    def check(self, output_schema: Mapping[str, Any] | None) -> None:
        """See that results of this schema can be written, before anything is paid.

        :raises ConfigurationError: they cannot.
        """

    def write(self, results: Results) -> object:
        """Write the rows of a result file; what is there of them already is written over.

        :return: if it is a text, the address of what was written; the manifest shows it.
        """
