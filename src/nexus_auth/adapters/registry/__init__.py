"""Who is registered, learned from a source of keys and kept in memory: the KeyRegistry port.

| module | what it does |
|---|---|
| `snapshot` | serves all keys of a subnet, and composes the others |
| `refresh` | one fetch in flight at a time; when the next one is due; who waits for it |
| `fetch` | one fetch of all keys, with neurons where a policy needs them; the spans of all |
| `plausibility` | quarantines an answer that is too unlike the last one |
| `lease` | shares snapshots with other processes; the lease to fetch for all of them |
| `lookup` | fetches each hotkey on its own while the source cannot give all keys at once |
| `allowance` | bounds the fetches that callers cause, and shares them out among hotkeys |
| `backoff` | the pause after failures; a limit on repeated lines |

No module here knows a source by name. A new source implements `KeySource` (and `NeuronSource`,
where it has neurons) in a package of its own: `name` for the log, `fetch_keys` or `BulkNotOffered`,
`fetch_key`, and errors of `RegistryError` alone. Nothing here changes for it.
"""
