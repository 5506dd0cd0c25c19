"""``airflow raif doctor``: look at the set-up, and say what to do."""

from __future__ import annotations

import sys
from typing import Any

from airflow_raif.cli.command import command
from airflow_raif.cli.shown import counted, progress, write_json, write_line, write_table


@command
def doctor(args: Any) -> None:
    """Look at everything; end with 1 if there is a problem."""
    from airflow_raif.hooks.doctor import Level, examine

    findings = []
    with progress("Looking", None) as on_finding:
        for finding in examine(args.conn_id or ()):
            findings.append(finding)
            on_finding(1)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if args.output == "json":
        names = ("check", "level", "message", "remedy")
        write_json([{name: getattr(finding, name) for name in names} for finding in findings])
    else:
        write_table(
            ("check", "", "found", "what to do"),
            [(each.check, each.level, each.message, each.remedy) for each in findings],
        )
        warnings = sum(finding.level is Level.WARNING for finding in findings)
        write_line(f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}.")
    if problems:
        sys.exit(1)
