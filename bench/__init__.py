"""Measures speed, latency, memory and start-up, as ratios against a yardstick of the same run.

`make bench` runs all of it. No test times anything; what was measured last is committed in
`bench/results.json`, and a run that is more than a tenth worse says so loudly.
"""
