"""The pure heart: who a certificate belongs to. No I/O, no framework, no clock of its own."""
