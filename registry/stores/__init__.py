"""The implementations of the registry's store: Redis, and memory for tests and one-process use."""
