"""The routes under ``/api``: one file a noun. Thin edges: parse, call the registry, answer."""
