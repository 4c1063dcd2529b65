-- The data file of the development Pylon. Semicolons end statements, in comments too.
-- There is no column for a private key: it leaves with the answer and is never written down.

CREATE TABLE subnet (
    netuid INTEGER PRIMARY KEY CHECK (netuid BETWEEN 0 AND 65535),
    position INTEGER NOT NULL
);

CREATE TABLE secret (name TEXT PRIMARY KEY, digest BLOB NOT NULL);

CREATE TABLE identity (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    token_digest BLOB NOT NULL
);

CREATE TABLE neuron (
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    uid INTEGER NOT NULL,
    coldkey TEXT NOT NULL,
    active INTEGER NOT NULL,
    validator_permit INTEGER NOT NULL,
    alpha REAL NOT NULL,
    tao REAL NOT NULL,
    total REAL NOT NULL,
    axon_ip TEXT NOT NULL,
    axon_port INTEGER NOT NULL,
    axon_protocol INTEGER NOT NULL,
    axon_block INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (netuid, hotkey),
    UNIQUE (netuid, uid)
);

CREATE TABLE certificate (
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    PRIMARY KEY (netuid, hotkey)
);

-- When a neuron set its weights last, for each mechanism of its subnet.
CREATE TABLE weights (
    netuid INTEGER NOT NULL REFERENCES subnet (netuid),
    hotkey TEXT NOT NULL,
    mechanism INTEGER NOT NULL,
    block INTEGER NOT NULL,
    PRIMARY KEY (netuid, hotkey, mechanism)
);

-- "NXPY" in ASCII, which SQLite keeps at offset 68 of the file.
PRAGMA application_id = 1314410585;
PRAGMA user_version = 2;
