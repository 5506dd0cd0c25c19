"""Thin operators: read arguments, call services, defer."""
