"""The JSONL files of a batch on object storage: requests as sent, rows' own columns, results as received."""
