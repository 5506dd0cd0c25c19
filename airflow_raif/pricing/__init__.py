"""Tokens to money."""
