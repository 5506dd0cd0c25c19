"""Thin sensors."""
