"""Artifacts: kept by name, served to anybody, fetched from whoever has them, believed once they are hashed.

Bottom up: `limits` (every bound), `manifest` (what names shards), `files` (safe file operations), `partial`
and `store` (what this machine keeps), `edge` and `server` (serving), `address`, `peer` and `fetch`
(fetching).
"""
