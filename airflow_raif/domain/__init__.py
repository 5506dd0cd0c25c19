"""Values and rules of batch inference: statuses, requests, results, usage, errors. Imports nothing of ours."""
