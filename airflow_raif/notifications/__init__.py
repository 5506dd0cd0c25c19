"""Notifiers: messages about batches, through whatever the user is told things by."""
