"""The registry: records in Redis, weights in an artifact store. Versions, rollouts, feedback, snapshots, runs."""
