"""Celery workers: the search, the scoring and the continual loop."""
