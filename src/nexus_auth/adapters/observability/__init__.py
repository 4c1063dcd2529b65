"""What the service shows of itself: counters, reports of all workers, metrics, log and traces.

An observer is a `DecisionObserver`: one module here, and one row in the container.
"""
