"""Searches without a server: experts from folders, items from a file, one config; see docs/search.md."""
