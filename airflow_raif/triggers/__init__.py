"""Thin triggers that wait for the shared poller and yield one event."""
