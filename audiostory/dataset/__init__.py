"""From a manifest on disk to a batch in memory: `manifest.read` -> `sample.build` -> `batch.collate`."""
